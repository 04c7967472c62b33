"""PASCAL Context out of PASCAL in Detail's JSON file, directly and converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fmbseg.data import load_dataset
from fmbseg.data.detail import CATEGORY_IDS
from fmbseg.data.prepare import prepare
from fmbseg.errors import DataError
from fmbseg.machine.progress import silent_progress
from fmbseg.scenes.files import write_scenes

MASKS = "SegmentationClassContext"


def detail_content(root: Path) -> dict[str, Any]:
    """The JSON of a Context folder of ready masks: one entry a class and image."""
    images, masks = [], []
    for split in ("train", "val"):
        for sample in load_dataset("context60", root, split):
            label = sample.label
            assert label is not None
            number = int(sample.image_id.replace("_", ""))
            height, width = label.shape
            name = sample.image_path.name
            image = {"image_id": number, "file_name": name, "phase": split}
            images.append(image | {"width": width, "height": height})
            for index in np.unique(label[label > 0]):
                runs = coco_mask.encode(np.asfortranarray(label == index, np.uint8))
                segmentation = {"size": runs["size"], "counts": runs["counts"].decode()}
                entry = {"image_id": number, "category_id": CATEGORY_IDS[index - 1]}
                masks.append(entry | {"segmentation": segmentation})
    return {"images": images, "annos_segmentation": masks, "categories": []}


@pytest.fixture
def context(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    """A Context folder with the JSON file alone, and the masks it was made of."""
    root = tmp_path / "VOC2010"
    write_scenes("pascal_context", root, train=2, val=3)
    content = detail_content(root)
    labels = {}
    for split in ("train", "val"):
        for sample in load_dataset("context60", root, split):
            assert sample.label is not None
            labels[sample.image_id] = sample.label
    for file in [*(root / MASKS).iterdir(), *(root / "ImageSets").rglob("*.txt")]:
        file.unlink()
    (root / "trainval_merged.json").write_text(json.dumps(content))
    return root, labels


def test_category_ids_are_sixty_less_one_in_order() -> None:
    assert len(CATEGORY_IDS) == 59
    assert list(CATEGORY_IDS) == sorted(set(CATEGORY_IDS))
    # Ids published for some of the classes, at their place in the benchmark's order.
    from fmbseg.data.vocabulary import load_vocabulary

    known = dict(zip(load_vocabulary("context59").names, CATEGORY_IDS, strict=True))
    some = {"aeroplane": 2, "bicycle": 23, "person": 284, "sky": 360, "wall": 440, "wood": 458}
    assert some.items() <= known.items()


def test_the_json_file_is_read_directly(context: tuple[Path, dict[str, Any]]) -> None:
    root, labels = context
    assert len(load_dataset("context60", root, "train")) == 2
    dataset = load_dataset("context60", root)
    assert len(dataset) == 3
    for sample in dataset:
        np.testing.assert_array_equal(sample.label, labels[sample.image_id])
    for sample in load_dataset("context59", root):
        expected = np.where(labels[sample.image_id] == 0, 255, labels[sample.image_id] - 1)
        np.testing.assert_array_equal(sample.label, expected)


def test_prepare_makes_masks_and_goes_on(context: tuple[Path, dict[str, Any]]) -> None:
    root, labels = context
    assert prepare("context60", root, silent_progress()) == (5, 0)
    lost = sorted((root / MASKS).iterdir())[1]
    lost.unlink()
    assert prepare("context60", root, silent_progress()) == (1, 4)
    (root / "trainval_merged.json").unlink()
    for split, count in (("train", 2), ("val", 3)):
        dataset = load_dataset("context60", root, split)
        assert len(dataset) == count
        for sample in dataset:
            np.testing.assert_array_equal(sample.label, labels[sample.image_id])
    assert prepare("voc21", root, silent_progress()) is None


def test_wrong_files_are_named(context: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, _ = context
    file = root / "trainval_merged.json"
    content = json.loads(file.read_text())
    content["annos_segmentation"][0]["category_id"] = 3
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has category 3, which is none of the 59"):
        prepare("context60", root, silent_progress())
    file.write_text('{"images": []}')
    with pytest.raises(DataError, match="is not PASCAL in Detail's annotation file"):
        load_dataset("context60", root)
    file.unlink()
    with pytest.raises(DataError, match=r"trainval_merged\.json does not exist; to get context60"):
        prepare("context60", root, silent_progress())
