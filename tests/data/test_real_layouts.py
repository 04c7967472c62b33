"""The benchmarks as their publishers lay them out: each pixel of the real files decoded right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg.data import load_dataset
from fmbseg.data.datasets import SegmentationDataset

IGNORED = "ignored"
CONTEXT = "voc2010/VOCdevkit/VOC2010"
# Cityscapes' own id of every evaluated class, written out by name.
CITYSCAPES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def raw_histogram(path: Path) -> Counter[int]:
    values = np.asarray(Image.open(path))
    return Counter(dict(enumerate(np.bincount(values.ravel(), minlength=256).tolist())))


def by_name(raw: Counter[int], names: Mapping[int, str]) -> Counter[str]:
    """A raw file's pixels a class name; values without a name are ignored ones."""
    pixels: Counter[str] = Counter()
    for value, count in raw.items():
        pixels[names.get(value, IGNORED)] += count
    return +pixels


def decoded(dataset: SegmentationDataset, number: int, names: list[str]) -> Counter[str]:
    """A decoded label's pixels a class name, with the published names in index order."""
    sample = dataset[number]
    label = sample.label
    assert label is not None
    assert label.dtype == np.int64
    assert label.shape == (sample.image.height, sample.image.width)
    assert len(names) == len(dataset.vocabulary)
    pixels: Counter[str] = Counter()
    for value, count in zip(*np.unique(label, return_counts=True), strict=True):
        pixels[IGNORED if value == 255 else names[value]] += int(count)
    return pixels


def published(samples: Path, key: str) -> list[str]:
    lists = json.loads((samples / "class_lists.json").read_text())
    names: list[str] = lists[key]["classes"]
    return names


def histograms(samples: Path) -> dict[str, Any]:
    """What the PNGs hold: of our own counted as they were drawn, of the real ones with their lists.

    `real_histograms.json` was counted from the PNGs and the sets' own lists of names alone.
    """
    own = samples / "histograms.json"
    path = own if own.is_file() else Path(__file__).parent / "real_histograms.json"
    content: dict[str, Any] = json.loads(path.read_text())
    return content


# Folder of a set and the key of its published names; "background" or nothing goes before.
SETS = {
    "voc21 val": ("voc2012/VOCdevkit/VOC2012", "PascalVOCDataset", ()),
    "voc20 val": ("voc2012/VOCdevkit/VOC2012", "PascalVOCDataset", ()),
    "coco_stuff train2017": ("coco_stuff164k", "COCOStuffDataset", ()),
    "coco_stuff val2017": ("coco_stuff164k", "COCOStuffDataset", ()),
    "coco_object train2017": ("coco_stuff164k", "COCOObject80", ("background",)),
    "coco_object val2017": ("coco_stuff164k", "COCOObject80", ("background",)),
    "context59 train": (CONTEXT, "PascalContextDataset59", ()),
    "context59 val": (CONTEXT, "PascalContextDataset59", ()),
    "context60 train": (CONTEXT, "PascalContextDataset", ()),
    "context60 val": (CONTEXT, "PascalContextDataset", ()),
    "cityscapes train": ("cityscapes", "CityscapesDataset", ()),
    "cityscapes_small val": ("cityscapes_small", "CityscapesDataset", ()),
    "ade20k validation": ("ade20k/ADEChallengeData2016", None, ()),
    "camvid train": ("camvid", None, ()),
    "camvid val": ("camvid", None, ()),
}


def names_of(key: str, samples: Path) -> list[str]:
    """The published names of a set's classes, in their order."""
    folder, published_as, before = SETS[key]
    if published_as is not None:
        names = [*before, *published(samples, published_as)]
        return names[1:] if key.startswith("voc20") else names
    if key.startswith("camvid"):
        names = json.loads((samples / folder / "classes.json").read_text())
        return names
    lines = (samples / folder / "objectInfo150.txt").read_text().splitlines()[1:]
    return [line.split("\t")[-1].split(",")[0].strip() for line in lines]


def test_histograms_are_those_written_down(samples: Path) -> None:
    for key, written in histograms(samples).items():
        name, split = key.replace("_small", "").split()
        names, dataset = names_of(key, samples), load_dataset(name, samples / SETS[key][0], split)
        assert len(dataset) == written["files"], key
        total: Counter[str] = Counter()
        for sample in dataset:
            values, counts = np.unique(np.asarray(sample.label), return_counts=True)
            for value, count in zip(values, counts.tolist(), strict=True):
                total[IGNORED if value == 255 else names[value]] += count
        assert dict(total) == written["pixels"], key


def test_voc_void_is_ignored_and_palette_indices_are_classes(samples: Path) -> None:
    root = samples / "voc2012" / "VOCdevkit" / "VOC2012"
    names = published(samples, "PascalVOCDataset")
    dataset = load_dataset("voc21", root, "val")
    raw = raw_histogram(root / "SegmentationClass" / f"{dataset[0].image_id}.png")
    assert raw[255] > 0
    assert decoded(dataset, 0, names) == by_name(raw, dict(enumerate(names)))
    # The 20-class benchmark does not score background pixels.
    classes = {value: name for value, name in enumerate(names) if value > 0}
    without = decoded(load_dataset("voc20", root), 0, names[1:])
    assert without == by_name(raw, classes)
    assert without[IGNORED] == raw[0] + raw[255]


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_stuff_pixels_are_category_ids_minus_one(split: str, samples: Path) -> None:
    root = samples / "coco_stuff164k"
    raw_names = json.loads((root / "labels_raw182.json").read_text())
    names = published(samples, "COCOStuffDataset")
    # Raw names and published names are the same words; raw ones without a class never occur.
    meaning = {int(value): name for value, name in raw_names.items()}
    dataset = load_dataset("coco_stuff", root, split)
    assert len(dataset) == len(list((root / "images" / split).glob("*.jpg")))
    for number, sample in enumerate(dataset):
        raw = raw_histogram(root / "annotations" / split / f"{sample.image_id}.png")
        expected = by_name(raw, meaning)
        assert set(expected) <= {*names, IGNORED}
        assert expected[IGNORED] == raw[255]
        assert decoded(dataset, number, names) == expected


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_object_has_everything_else_as_background(split: str, samples: Path) -> None:
    root = samples / "coco_stuff164k"
    entry = json.loads((samples / "class_lists.json").read_text())["COCOObject80"]
    meaning = {
        category - 1: name
        for category, name in zip(entry["coco_category_ids"], entry["classes"], strict=True)
    }
    dataset = load_dataset("coco_object", root, split)
    for number, sample in enumerate(dataset):
        expected = by_name(
            raw_histogram(root / "annotations" / split / f"{sample.image_id}.png"), meaning
        )
        background = expected.pop(IGNORED, 0)
        if background:
            expected["background"] = background
        assert decoded(dataset, number, ["background", *entry["classes"]]) == expected


def test_cityscapes_label_ids(samples: Path) -> None:
    root = samples / "cityscapes"
    names = published(samples, "CityscapesDataset")
    assert list(CITYSCAPES) == names
    meaning = {value: name for name, value in CITYSCAPES.items()}
    dataset = load_dataset("cityscapes", root, "train")
    assert len(dataset) == 3
    for number, sample in enumerate(dataset):
        file = sample.image_path.name.replace("leftImg8bit", "gtFine_labelIds")
        raw = raw_histogram(root / "gtFine" / "train" / "aachen" / file)
        assert decoded(dataset, number, names) == by_name(raw, meaning)


def test_cityscapes_train_ids_are_the_same_truth(samples: Path, tmp_path: Path) -> None:
    real = samples / "cityscapes_small"
    image = next((real / "leftImg8bit" / "val" / "frankfurt").glob("*.png"))
    train_ids = next((real / "gtFine" / "val" / "frankfurt").glob("*_gtFine_labelTrainIds.png"))
    for source in (image, train_ids):
        target = tmp_path / source.relative_to(real)
        target.parent.mkdir(parents=True)
        target.write_bytes(source.read_bytes())
    from_ids = load_dataset("cityscapes", real)[0].label
    from_train_ids = load_dataset("cityscapes", tmp_path)[0].label
    assert from_ids is not None and from_train_ids is not None
    np.testing.assert_array_equal(from_train_ids, np.asarray(Image.open(train_ids)))
    # These two small files were scaled down separately: they differ in boundary pixels alone.
    assert (from_ids == from_train_ids).mean() > 0.995
    assert set(np.unique(from_ids)) == set(np.unique(from_train_ids))


def test_ade20k_has_no_class_zero(samples: Path) -> None:
    root = samples / "ade20k" / "ADEChallengeData2016"
    lines = (root / "objectInfo150.txt").read_text().splitlines()[1:]
    words = {int(line.split()[0]): line.split("\t")[-1].split(",") for line in lines}
    dataset = load_dataset("ade20k", root)
    raw = raw_histogram(root / "annotations" / "validation" / "ADE_val_00000001.png")
    names = [words[value][0].strip() for value in range(1, 151)]
    assert decoded(dataset, 0, names) == by_name(raw, dict(enumerate(names, start=1)))
    # The names are among the benchmark's own words for each class.
    for value, name in enumerate(dataset.vocabulary.names, start=1):
        own = [word.replace(" ", "") for word in words[value]]
        assert name.replace(" ", "") in own


@pytest.mark.parametrize("split", ["train", "val"])
def test_camvid_id_11_is_void(split: str, samples: Path) -> None:
    root = samples / "camvid"
    names = json.loads((root / "classes.json").read_text())
    dataset = load_dataset("camvid", root, split)
    assert len(dataset) == len((root / f"{split}.txt").read_text().splitlines()) > 0
    for number in range(len(dataset)):
        raw = raw_histogram(root / f"{split}annot" / f"{dataset[number].image_id}.png")
        expected = by_name(raw, dict(enumerate(names)))
        assert expected[IGNORED] == raw[11]
        assert decoded(dataset, number, names) == expected
