"""Training on what gives nothing to learn: refused or said, with the pictures' names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fmbseg.align.training import STATE
from fmbseg.errors import ConfigError, DataError
from tests.align.clusters import (
    CLASSES,
    ClusteredPatches,
    accuracy,
    train,
)


def test_nothing_labelled(tmp_path: Path) -> None:
    data = ClusteredPatches()
    for label in data.labels:
        label[:] = 255
    with pytest.raises(DataError, match=r"no patch of 9 pictures \(picture-0, .*, \.\.\.\) has a"):
        train(tmp_path, data)


@pytest.mark.parametrize("head", ["transformer", "linear"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("labelled", [True, False])
def test_features_that_are_no_numbers_are_named(
    tmp_path: Path, head: str, value: float, labelled: bool
) -> None:
    """Also of a patch without a label, whose gradient is 0, and 0 times NaN is NaN."""
    data = ClusteredPatches()
    data.load(4)[0, 0] = value
    data.labels[4][0, 0] = 1 if labelled else 255
    with pytest.raises(DataError, match=r"features of 1 picture \(picture-4\) hold NaN"):
        train(tmp_path, data, head=head, epochs=1)
    assert not (tmp_path / STATE).exists()


@pytest.mark.parametrize(("batch_images", "said"), [(2, "the loss is nan"), (9, "weights are NaN")])
def test_divergence_names_the_batch(tmp_path: Path, batch_images: int, said: str) -> None:
    """With one step an epoch the loss is finite, and the weights after it are not."""
    expected = rf"{said} in epoch \d+, in the batch of \d pictures? \(picture-\d.*\): lower"
    with pytest.raises(ConfigError, match=expected):
        train(
            tmp_path,
            ClusteredPatches(),
            head="linear",
            learning_rate=100,
            weight_decay=100,
            batch_images=batch_images,
            epochs=50,
        )


def test_one_class_everywhere_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ClusteredPatches()
    for label in data.labels:
        label[label != 255] = 2
    train(tmp_path, data, epochs=1)
    (told,) = caplog.messages
    assert "all labelled patches are of one class (number 2" in told and "9 pictures" in told


def test_one_patch_a_picture_is_said_and_its_loss_is_the_equations_constant(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = ClusteredPatches()
    for label in data.labels:
        label[:] = 255
        label[1, 1] = 0
    data.labels[0][0, 0] = 1
    trained = train(tmp_path, data, epochs=2, batch_images=1, loss="supcon")
    (told,) = caplog.messages
    assert "a single patch is labelled in each of 8 pictures (picture-1, " in told
    assert trained.curve[0].loss == pytest.approx(trained.curve[1].loss, abs=0.3)
    # -z.z over the temperature, for one patch and as many texts as there are.
    alone = train(tmp_path / "alone", data, epochs=1, batch_images=1, loss="supcon")
    eight = -10 / (1 + CLASSES) * 8
    two = alone.curve[0].loss * 9 - eight
    assert -20 / (2 + CLASSES) <= two <= 0


def test_one_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ClusteredPatches(images=1)
    trained = train(tmp_path, data, epochs=60, learning_rate=1e-2, head="linear", loss="text")
    assert accuracy(trained, data) > 0.9 and not caplog.messages
