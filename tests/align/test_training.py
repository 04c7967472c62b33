"""Training: it learns, repeats to the byte and resumes to the byte."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fmbseg.align import losses, training
from fmbseg.align.feature_store import Float16
from fmbseg.align.record import HeadConfig
from fmbseg.align.training import STATE, Target, train_head
from fmbseg.machine.device import DeviceChoice
from fmbseg.machine.progress import silent_progress
from tests.align.clusters import (
    CHANNELS,
    CLASSES,
    DIM,
    ClusteredPatches,
    accuracy,
    anchors,
    assert_same_bytes,
    section,
    train,
)


@pytest.mark.parametrize("head", ["transformer", "mlp", "linear"])
@pytest.mark.parametrize("loss", ["tsupcon", "text"])
def test_patches_end_at_the_text_of_their_label(tmp_path: Path, head: str, loss: str) -> None:
    data = ClusteredPatches()
    untrained = train(tmp_path / "a", data, epochs=1, learning_rate=1e-9, head=head)
    trained = train(tmp_path / "b", data, epochs=15, learning_rate=1e-2, head=head, loss=loss)
    assert trained.curve[-1].loss < trained.curve[0].loss
    assert accuracy(untrained, data) < 0.6
    # The text of another label may be near by chance; the linear head alone cannot part all.
    assert accuracy(trained, data) > 0.9


def test_the_same_twice(tmp_path: Path) -> None:
    data = ClusteredPatches()
    assert_same_bytes(train(tmp_path / "a", data), train(tmp_path / "b", data))


class Killed(Exception):
    pass


@pytest.mark.parametrize(("after", "most"), [(1, 0), (4, 0), (4, 3)])
def test_resumes_to_the_byte(tmp_path: Path, after: int, most: int) -> None:
    data = ClusteredPatches()
    whole = train(tmp_path / "whole", data, patches_per_class=most)
    seen: list[int] = []

    def kill(epoch: int, metrics: Mapping[str, float]) -> None:
        seen.append(epoch)
        if epoch == after:
            raise Killed

    chosen = section(patches_per_class=most)
    targets = [Target(data.labels, anchors())]
    arguments = (data, targets, chosen, 0, tmp_path / "cut", silent_progress())
    with pytest.raises(Killed):
        train_head(*arguments, on_metrics=kill)
    torch.manual_seed(99)  # what the process drew meanwhile does not matter
    resumed = train_head(*arguments, on_metrics=kill)
    assert resumed.resumed == after
    assert seen == [1, 2, 3, 4, 5, 6]
    assert_same_bytes(whole, resumed)


@pytest.mark.parametrize("most", [1, 3])
def test_no_class_has_more_patches_in_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    counts: list[list[int]] = []
    real = losses.LOSSES["tsupcon"]

    def counting(z: Tensor, labels: Tensor, *rest: Any) -> Tensor:
        assert len(z) == len(labels)
        counts.append(torch.unique(labels, return_counts=True)[1].tolist())
        return real(z, labels, *rest)

    monkeypatch.setitem(losses.LOSSES, "tsupcon", counting)  # type: ignore[arg-type]
    data = ClusteredPatches()
    trained = train(tmp_path, data, patches_per_class=most, epochs=15, learning_rate=1e-2)
    assert max(max(count) for count in counts) == most
    assert accuracy(trained, data) > 0.65  # chance: a class in four or so


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_of_each_class_the_first_patches_of_the_draw_are_taken(most: int, weighted: bool) -> None:
    """As a loop over the classes takes them."""
    chosen = section(patches_per_class=most)
    head = HeadConfig("linear", CHANNELS, DIM, 1)
    cpu = DeviceChoice(torch.device("cpu"), torch.float32)
    run = training._Run(head, chosen, 3, cpu, steps=1)
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 7, 255], 90)
    weights = rng.uniform(0.5, 4, 90).astype(np.float32) if weighted else None
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        if weights is None:
            order = torch.randperm(90, generator=generator).tolist()
        else:
            times = torch.rand(90, generator=generator).log().neg().numpy() / weights
            order = sorted(range(90), key=lambda i: times[i])
        kept = []
        for each in (0, 1, 2, 7):
            kept += [i for i in order if labels[i] == each][:most]
        assert run._sample(labels, weights).tolist() == sorted(kept)
    assert run._sample(np.full(9, 255), None).tolist() == []


def test_a_finished_training_is_only_read(tmp_path: Path) -> None:
    data = ClusteredPatches()
    first, second = train(tmp_path, data), train(tmp_path, data)
    assert (first.resumed, second.resumed) == (0, 6)
    assert_same_bytes(first, second)


def test_seed_matters(tmp_path: Path) -> None:
    data = ClusteredPatches()
    one = train(tmp_path / "a", data)
    other = train_head(
        data, [Target(data.labels, anchors())], section(), 1, tmp_path / "b", silent_progress()
    )
    assert one.curve != other.curve


@pytest.mark.parametrize("place", [0, 40, 5000, -40])
def test_a_damaged_state_is_said_and_the_training_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    """Any one byte: most of a state is numbers, and another one is no other format."""
    data = ClusteredPatches()
    first = train(tmp_path, data)
    state = tmp_path / STATE
    content = bytearray(state.read_bytes())
    content[place] ^= 4
    state.write_bytes(content)
    again = train(tmp_path, data)
    assert again.resumed == 0 and "state.pt is damaged" in caplog.text
    assert_same_bytes(first, again)


def test_curve_and_metrics(tmp_path: Path) -> None:
    data = ClusteredPatches()
    rows: list[tuple[int, Mapping[str, float]]] = []
    trained = train_head(
        data,
        [Target(data.labels, anchors())],
        section(),
        0,
        tmp_path,
        silent_progress(),
        lambda epoch, metrics: rows.append((epoch, metrics)),
    )
    assert rows == [(row.epoch, {"loss": row.loss, "lr": row.lr}) for row in trained.curve]
    assert [row.epoch for row in trained.curve] == [1, 2, 3, 4, 5, 6]
    rates = [row.lr for row in trained.curve]
    assert rates == sorted(rates, reverse=True)


def test_learning_rate_rises_and_falls() -> None:
    factors = [training._schedule(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.001
    assert training._schedule(0, 10, 0.0) == 1.0


def test_images_without_labels_are_left_out(tmp_path: Path) -> None:
    data = ClusteredPatches()
    data.labels[2][:] = 255
    data.labels[5][:] = 255
    loaded: set[int] = set()

    class Watched(ClusteredPatches):
        def load(self, index: int) -> Float16:
            loaded.add(index)
            return super().load(index)

    targets = [Target(data.labels, anchors())]
    train_head(Watched(), targets, section(), 0, tmp_path, silent_progress())
    assert loaded == set(range(9)) - {2, 5}


def test_patches_and_texts_of_all_vocabularies_count_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step's loss is that of equation (1) over the patches and texts of all vocabularies."""
    data = ClusteredPatches()
    few = [np.where(label == 0, 0, 255) for label in data.labels]  # the first class alone
    targets = [Target(data.labels, anchors()), Target(few, anchors()[:1])]
    seen: list[tuple[float, int]] = []
    real = losses.LOSSES["tsupcon"]

    def watching(
        z: Tensor, labels: Tensor, text: Tensor, temperature: float, weights: Tensor | None
    ) -> Tensor:
        found = real(z, labels, text, temperature, weights)
        seen.append((float(found.detach()), int((labels != 255).sum()) + len(text)))
        return found

    monkeypatch.setitem(losses.LOSSES, "tsupcon", watching)  # type: ignore[arg-type]
    trained = train_head(data, targets, section(epochs=1), 0, tmp_path, silent_progress())
    pairs = list(zip(seen[0::2], seen[1::2], strict=True))
    steps = [(one * m + other * n) / (m + n) for (one, m), (other, n) in pairs]
    assert any(m != n for (_, m), (_, n) in pairs)
    assert trained.curve[0].loss == pytest.approx(sum(steps) / len(steps), rel=1e-5)


@pytest.mark.parametrize("most", [0, 2])
def test_a_weight_draws_patches_to_the_labels_that_have_it(tmp_path: Path, most: int) -> None:
    """Half of the images have false labels; the more the others weigh, the less that matters."""
    data = ClusteredPatches(images=10)
    for label in data.labels[::2]:
        label[label != 255] = (label[label != 255] + 1) % CLASSES
    chosen = section(
        epochs=40,
        batch_images=5,
        learning_rate=1e-2,
        head="linear",
        loss="text",
        patches_per_class=most,
    )

    def learned(weight: float) -> float:
        weights = [weight if index % 2 else 1.0 for index in range(10)]
        target, folder = Target(data.labels, anchors(), weights), tmp_path / str(weight)
        found = train_head(data, [target], chosen, 0, folder, silent_progress())
        return accuracy(found, ClusteredPatches(images=10))

    shares = [learned(weight) for weight in (1 / 30, 1.0, 30.0)]
    assert shares[0] < 0.15 < shares[1] < 0.6 < shares[2], shares


def test_weights_of_one_change_nothing_but_the_draw(tmp_path: Path) -> None:
    data = ClusteredPatches()
    trained = [
        train_head(
            data,
            [Target(data.labels, anchors(), weights)],
            section(),
            0,
            tmp_path / str(number),
            silent_progress(),
        )
        for number, weights in enumerate((None, [1.0] * 9))
    ]
    assert_same_bytes(*trained)


def test_an_image_counts_that_is_labelled_in_one_vocabulary(tmp_path: Path) -> None:
    data = ClusteredPatches()
    nothing = [np.full_like(label, 255) for label in data.labels]
    targets = [Target(nothing, anchors()), Target(data.labels, anchors())]
    trained = train_head(data, targets, section(epochs=1), 0, tmp_path, silent_progress())
    assert trained.curve[0].loss > 0
