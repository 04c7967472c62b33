"""The stages align and oracle on a real, tiny workspace."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg.align.checkpoint import load_checkpoint
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.errors import DataError, StoreError
from fmbseg.stage.tracker import OnMetrics, Tracker
from fmbseg.store.paths import Paths
from tests.workspace import MakeConfig, opened, run


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class Listening(Tracker):
    """Hands each epoch's metrics to a test."""

    def __init__(self, on_metrics: OnMetrics) -> None:
        self._on_metrics = on_metrics

    @contextmanager
    def training(self, *_: object) -> Iterator[OnMetrics | None]:
        yield self._on_metrics


@pytest.fixture
def ready(labelled: Paths, make_config: MakeConfig) -> Paths:
    run("features", make_config(), labelled)
    return labelled


def test_trains_and_publishes(ready: Paths, make_config: MakeConfig) -> None:
    rows: list[tuple[int, Mapping[str, float]]] = []
    tracker = Listening(lambda epoch, values: rows.append((epoch, values)))
    report = run("align", make_config(), ready, tracker)
    assert (report.stage, report.computed, report.taken_over) == ("align", 3, 0)
    assert set(files(ready.align)) == {
        "checkpoint.json",
        "curve.csv",
        "head.safetensors",
        "manifest.json",
    }
    with (ready.align / "curve.csv").open() as stream:
        curve = list(csv.DictReader(stream))
    assert [(int(row["epoch"]), float(row["loss"]), float(row["lr"])) for row in curve] == [
        (epoch, values["loss"], values["lr"]) for epoch, values in rows
    ]
    checkpoint = load_checkpoint(ready.align)
    assert checkpoint.info.vocabularies == (load_vocabulary("coco_stuff"),)
    assert checkpoint.info.encoder.name == "tiny-encoder"
    assert checkpoint.info.short_side == 64
    assert 0 < checkpoint.info.metrics["labelled_patches"] <= 1
    # Only the outs say what was trained; the state to resume from is gone.
    assert not list(ready.training.rglob("state.pt"))
    assert str(ready.root) not in "".join(
        (ready.align / name).read_text() for name in ("checkpoint.json", "manifest.json")
    )


def test_second_run_computes_nothing(ready: Paths, make_config: MakeConfig) -> None:
    run("align", make_config(), ready)
    before = files(ready.align)
    # As after a pull on a clone: the outs are there, nothing else; no feature is made for nothing.
    shutil.rmtree(ready.root / ".fmbseg")
    report = run("align", make_config(), ready)
    assert (report.computed, report.taken_over) == (0, 3)
    assert files(ready.align) == before
    assert not ready.training.exists() and not ready.feature_store.exists()


def test_the_state_is_what_a_run_would_find(ready: Paths, make_config: MakeConfig) -> None:
    for name, out in (("align", ready.align), ("oracle", ready.oracle)):
        before = opened(name, make_config(), ready)
        assert not before.published
        assert run(name, make_config(), ready).key == before.key
        assert before.published
        weights = out / "head.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        assert not before.published
        assert opened(name, make_config(align={"epochs": 4}), ready).key != before.key
    found = opened("features", make_config(), ready)
    assert found.published
    (ready.features / "index.parquet").unlink()
    assert not found.published


def test_another_threshold_is_published_without_a_training(
    ready: Paths, make_config: MakeConfig
) -> None:
    first = run("align", make_config(), ready)
    head = files(ready.align)["head.safetensors"]
    report = run("align", make_config(evaluate={"background_threshold": 0.7}), ready)
    assert (report.computed, report.taken_over) == (0, 3)
    assert report.key != first.key
    assert load_checkpoint(ready.align).info.inference.background_threshold == 0.7
    assert files(ready.align)["head.safetensors"] == head
    # What does not say how the head is asked changes nothing.
    assert run("align", make_config(evaluate={"batch_size": 3}), ready).key == first.key


def test_publishes_again_what_is_stored(ready: Paths, make_config: MakeConfig) -> None:
    run("align", make_config(), ready)
    before = files(ready.align)
    shutil.rmtree(ready.align)
    report = run("align", make_config(), ready)
    assert report.computed == 0
    assert files(ready.align) == before


class Killed(Exception):
    pass


def test_resumes_to_the_byte(ready: Paths, make_config: MakeConfig) -> None:
    run("align", make_config(), ready)
    before = files(ready.align)
    for place in (ready.align, ready.training):
        shutil.rmtree(place)

    def kill(epoch: int, metrics: Mapping[str, float]) -> None:
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        run("align", make_config(), ready, Listening(kill))
    assert not ready.align.exists()
    report = run("align", make_config(), ready)
    assert (report.computed, report.taken_over) == (1, 2)
    assert files(ready.align) == before


def test_parameters_and_labels_are_in_the_key(ready: Paths, make_config: MakeConfig) -> None:
    keys = {run("align", make_config(), ready).key}
    for change in (
        {"align": {"temperature": 0.2}},
        {"align": {"loss": "text"}},
        {"run": {"seed": 1}},
    ):
        report = run("align", make_config(**change), ready)
        assert report.computed == 3
        keys.add(report.key)
    assert len(keys) == 4


def test_ground_truth_is_not_read(ready: Paths, make_config: MakeConfig) -> None:
    run("align", make_config(), ready)
    before = files(ready.align)
    for place in (ready.align, ready.training, ready.root / "coco" / "annotations"):
        shutil.rmtree(place)
    run("align", make_config(), ready)
    assert files(ready.align) == before
    with pytest.raises(DataError, match="annotation"):
        run("oracle", make_config(), ready)


def test_needs_labels_of_this_configuration(ready: Paths, make_config: MakeConfig) -> None:
    with pytest.raises(StoreError, match="run `fmbseg run label` again"):
        run("align", make_config(label={"min_similarity": 0.1}), ready)
    shutil.rmtree(ready.label)
    with pytest.raises(StoreError, match="run `fmbseg run label` first"):
        run("align", make_config(), ready)


def test_oracle_learns_from_truth_without_pseudo_labels(
    ready: Paths, make_config: MakeConfig
) -> None:
    shutil.rmtree(ready.pseudo)
    report = run("oracle", make_config(), ready)
    assert (report.stage, report.computed) == ("oracle", 3)
    (words,) = load_checkpoint(ready.oracle).info.vocabularies
    assert words.name == "coco_stuff"
    # A quarter of each image is unlabelled; a patch on the border of two rows is half so.
    labelled = load_checkpoint(ready.oracle).info.metrics["labelled_patches"]
    assert 0.7 < labelled < 0.85
    again = run("oracle", make_config(), ready)
    assert (again.computed, again.key) == (0, report.key)
    truth = ready.root / "coco" / "annotations" / "val2017" / f"{0:012d}.png"
    label = np.array(Image.open(truth))
    Image.fromarray(np.where(label == 16, 17, label).astype(np.uint8)).save(truth)
    assert run("oracle", make_config(), ready).key != report.key


def test_the_oracles_truth_is_said_in_every_vocabulary_that_has_words_for_it(
    ready: Paths, make_config: MakeConfig, tmp_path: Path
) -> None:
    shutil.rmtree(ready.pseudo)
    other = tmp_path / "nothing.yaml"
    other.write_text("name: nothing\nclasses: [quark, gluon]\n")
    run("oracle", make_config(), ready)
    alone = load_checkpoint(ready.oracle).info.metrics["labelled_patches"]
    several = make_config(data={"vocabulary": ["cityscapes", str(other), "coco_stuff"]})
    run("oracle", several, ready)
    info = load_checkpoint(ready.oracle).info
    assert [words.name for words in info.vocabularies] == ["coco_stuff", "cityscapes"]
    # Of the rows of the pictures some have no class in Cityscapes' names.
    assert alone / 2 < info.metrics["labelled_patches"] < alone


def test_manifests_hold_no_time_and_no_place(ready: Paths, make_config: MakeConfig) -> None:
    run("align", make_config(), ready)
    manifest = json.loads((ready.align / "manifest.json").read_text())
    assert set(manifest) == {"stage", "key", "shards", "files", "digest"}


def elsewhere(ready: Paths, name: str = "theirs") -> Path:
    """Stage 1's labels as a folder of another labeller's."""
    return Path(shutil.copytree(ready.label / "labels", ready.root / name))


def test_trains_on_labels_of_any_origin(ready: Paths, make_config: MakeConfig) -> None:
    run("align", make_config(), ready)
    own = files(ready.align)
    theirs = elsewhere(ready)
    shutil.rmtree(ready.pseudo)  # stage 1 is not needed
    config = make_config(data={"labels": "theirs"})
    assert run("align", config, ready).computed == 3
    # The same labels teach the same; the record says that they are others.
    assert files(ready.align)["head.safetensors"] == own["head.safetensors"]
    assert files(ready.align)["checkpoint.json"] != own["checkpoint.json"]
    assert opened("align", config, ready).published
    assert run("align", config, ready).computed == 0
    assert run("evaluate@coco_stuff", config, ready).computed > 0

    for path in theirs.iterdir():
        with Image.open(path) as image:
            label = np.array(image)
        Image.fromarray(np.where(label == 255, 3, label).astype(np.uint8)).save(path)
    assert not opened("align", config, ready).published
    assert run("align", config, ready).computed == 3
    assert files(ready.align)["head.safetensors"] != own["head.safetensors"]


def _missing(path: Path) -> None:
    path.unlink()


def _of_another_size(path: Path) -> None:
    Image.fromarray(np.zeros((9, 8), dtype=np.uint8)).save(path)


def _of_other_classes(path: Path) -> None:
    with Image.open(path) as image:
        Image.fromarray(np.full(image.size[::-1], 200, dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_missing, r"1 of 5 images have no label map in .*theirs, the first is .*0002\.png"),
        (_of_another_size, r"0002\.png is 8 x 9 px, its image 64 x 81 px"),
        (_of_other_classes, r"0002\.png holds the value 200: there are the classes 0 to 170"),
    ],
)
def test_labels_that_do_not_fit_are_named(
    damage: Callable[[Path], None], said: str, ready: Paths, make_config: MakeConfig
) -> None:
    damage(elsewhere(ready) / "000000000002.png")
    with pytest.raises(DataError, match=said):
        run("align", make_config(data={"labels": "theirs"}), ready)
    with pytest.raises(DataError, match="is no folder: give one with a label PNG"):
        run("align", make_config(data={"labels": "nowhere"}), ready)
