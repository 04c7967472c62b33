"""Label maps of other systems: the numbers against short references, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg.data import load_dataset
from fmbseg.data.datasets import SegmentationDataset
from fmbseg.data.vocabulary.grouping import load_grouping
from fmbseg.errors import DataError
from fmbseg.evaluate.predictions import score_predictions
from fmbseg.machine.progress import silent_progress
from fmbseg.store.paths import Paths

# Every label set of the samples: benchmark, folder and split.
SETS = (
    ("voc21", "voc2012/VOCdevkit/VOC2012", "val"),
    ("voc20", "voc2012/VOCdevkit/VOC2012", "val"),
    ("coco_stuff", "coco_stuff164k", "train2017"),
    ("coco_stuff", "coco_stuff164k", "val2017"),
    ("coco_object", "coco_stuff164k", "train2017"),
    ("coco_object", "coco_stuff164k", "val2017"),
    ("ade20k", "ade20k/ADEChallengeData2016", "validation"),
    ("cityscapes", "cityscapes", "train"),
    ("cityscapes", "cityscapes_small", "val"),
    ("camvid", "camvid", "train"),
    ("camvid", "camvid", "val"),
)
CITYSCAPES = "cityscapes_small"
Predictions = tuple[SegmentationDataset, Path]


def write_random(dataset: SegmentationDataset, folder: Path, seed: int = 0) -> None:
    """A fixed random prediction in blocks of 4 pixels; a tenth is unlabelled, a 25th is right."""
    rng = np.random.default_rng(seed)
    for sample in dataset:
        label = sample.label
        assert label is not None
        height, width = label.shape
        coarse = rng.integers(0, len(dataset.vocabulary), (height // 4 + 1, width // 4 + 1))
        coarse[rng.random(coarse.shape) < 0.1] = 255
        full = coarse.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
        full[::5, ::5] = label[::5, ::5]
        path = folder / f"{sample.image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(full.astype(np.uint8)).save(path)


def reference_miou(dataset: SegmentationDataset, folder: Path) -> float:
    classes = len(dataset.vocabulary)
    hits, union = np.zeros(classes), np.zeros(classes)
    for sample in dataset:
        truth = np.asarray(sample.label)
        pred = np.asarray(Image.open(folder / f"{sample.image_id}.png")).astype(int)
        for k in range(classes):
            t, p = truth == k, (pred == k) & (truth != 255)
            hits[k] += (t & p).sum()
            union[k] += (t | p).sum()
    return float(np.mean(100 * hits[union > 0] / union[union > 0]))


def test_what_predict_has_written_is_scored(coco: Path, tmp_path: Path) -> None:
    dataset = load_dataset("coco_stuff", coco, "val2017")
    write_random(dataset, tmp_path / "plain")
    plain = score_predictions("plain", tmp_path / "plain", dataset, silent_progress())
    for path in [*(tmp_path / "plain").rglob("*.png")]:
        path.rename(path.with_name(f"{path.stem}.label.png"))
    named = score_predictions("plain", tmp_path / "plain", dataset, silent_progress())
    assert named == plain and named["miou"] > 0


@pytest.mark.parametrize(("benchmark", "root", "split"), SETS)
def test_random_predictions_on_real_labels(
    benchmark: str, root: str, split: str, samples: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(benchmark, samples / root, split)[:6]
    write_random(dataset, tmp_path)
    result = score_predictions("random", tmp_path, dataset, silent_progress())
    assert result["images"] == len(dataset) > 0
    assert result["miou"] == pytest.approx(reference_miou(dataset, tmp_path), rel=0, abs=1e-9)
    assert 0 < result["miou"] < 20


@pytest.fixture
def predictions(workspace: Paths, tmp_path: Path) -> Predictions:
    dataset = load_dataset("coco_stuff", workspace.root / "coco", "val2017")
    folder = tmp_path / "theirs"
    write_random(dataset, folder)
    return dataset, folder


def score(found: Predictions, name: str = "theirs") -> dict[str, object]:
    dataset, folder = found
    return score_predictions(name, folder, dataset, silent_progress())


def test_the_truth_itself_reaches_100_and_a_palette_is_no_colour(predictions: Predictions) -> None:
    dataset, folder = predictions
    for sample in dataset:
        label = np.asarray(sample.label).astype(np.uint8)
        label[label == 255] = 7
        image = Image.fromarray(label)
        image.putpalette(list(range(256)) * 3)
        image.save(folder / f"{sample.image_id}.png")
    result = score(predictions)
    assert result["miou"] == result["pixel_accuracy"] == result["boundary_iou"] == 100.0
    assert result["method"] == "theirs"
    protocol = result["protocol"]
    assert isinstance(protocol, dict) and protocol["name"] == "predictions"
    assert result["checkpoint_sha256"] is None


def test_an_unlabelled_pixel_is_a_miss(predictions: Predictions) -> None:
    dataset, folder = predictions
    for sample in dataset:
        label = np.asarray(sample.label).astype(np.uint8)
        Image.fromarray(np.full_like(label, 255)).save(folder / f"{sample.image_id}.png")
    assert score(predictions)["miou"] == 0.0


def test_the_digest_tells_predictions_apart(predictions: Predictions) -> None:
    dataset, folder = predictions
    first = score(predictions)["protocol"]
    write_random(dataset, folder, seed=1)
    second = score(predictions)["protocol"]
    assert isinstance(first, dict) and isinstance(second, dict)
    assert first["predictions_sha256"] != second["predictions_sha256"]


def test_names_without_folders(samples: Path, tmp_path: Path) -> None:
    """Cityscapes' image ids have the city's folder; a flat folder of PNGs will do."""
    dataset = load_dataset("cityscapes", samples / CITYSCAPES, "val")[:2]
    write_random(dataset, tmp_path / "deep")
    flat = tmp_path / "flat"
    flat.mkdir()
    for sample in dataset:
        source = tmp_path / "deep" / f"{sample.image_id}.png"
        (flat / f"{sample.image_path.stem}.png").write_bytes(source.read_bytes())
    results = [
        score_predictions("x", folder, dataset, silent_progress())
        for folder in (tmp_path / "deep", flat)
    ]
    assert results[0] == results[1] and not math.isnan(results[0]["miou"])


def _remove(path: Path) -> None:
    path.unlink()


def _crop(path: Path) -> None:
    Image.fromarray(np.asarray(Image.open(path))[1:]).save(path)


def _illegal(path: Path) -> None:
    label = np.array(Image.open(path))
    label[0, 0] = 171
    Image.fromarray(label).save(path)


def _colour(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove, r"1 of 5 images have no label map in .*theirs.*000000000003\.png"),
        (_crop, r"000000000003\.png is 73 x 100 px, its image 73 x 101 px"),
        (_illegal, r"000000000003\.png holds the value 171: .* classes 0 to 170"),
        (_colour, r"000000000003\.png is a colour picture"),
        (_truncate, r"000000000003\.png is broken"),
    ],
)
def test_what_is_refused_is_named(
    damage: Callable[[Path], None], message: str, predictions: Predictions
) -> None:
    damage(predictions[1] / "000000000003.png")
    with pytest.raises(DataError, match=message) as caught:
        score(predictions)
    assert "\n" not in str(caught.value)


def test_names_that_are_taken(predictions: Predictions) -> None:
    for name in ("fmbseg", "oracle"):
        with pytest.raises(DataError, match=f"'{name}' is a method of this package"):
            score(predictions, name)
    for name in (" ", "a/b", ".hidden"):
        with pytest.raises(DataError, match="--name"):
            score(predictions, name)
    with pytest.raises(DataError, match="no folder"):
        score((predictions[0], predictions[1] / "none"))


def test_groups_are_scored_beside_their_classes(predictions: Predictions, tmp_path: Path) -> None:
    dataset, folder = predictions
    names = dataset.vocabulary.names
    (tmp_path / "groups.yaml").write_text(f"all: [{', '.join(names[:5])}]\n")
    grouping = load_grouping(tmp_path / "groups.yaml", names)
    plain = score(predictions)
    found = score_predictions("theirs", folder, dataset, silent_progress(), grouping=grouping)
    groups = found.pop("groups")
    assert found == plain
    hits = union = 0
    for sample in dataset:
        truth = np.asarray(sample.label)
        pred = np.asarray(Image.open(folder / f"{sample.image_id}.png")).astype(int)
        t, p = truth < 5, (pred < 5) & (truth != 255)
        hits, union = hits + (t & p).sum(), union + (t | p).sum()
    assert groups["per_class_iou"]["all"] == pytest.approx(100 * hits / union)
    assert groups["per_class_iou"][names[16]] == plain["per_class_iou"][names[16]]
