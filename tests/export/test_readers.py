"""Exports opened by the libraries that are to read them (`make test-formats` installs them)."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg.export.brush import decode_brush, encode_brush
from fmbseg.export.source import NOTHING, Classes, Source
from tests.export.labels import NAMES, Label, hard_source, noise
from tests.export.test_formats import GROUND, written

pytestmark = pytest.mark.slow


@pytest.fixture
def hard(tmp_path: Path) -> tuple[Source, dict[str, Label]]:
    return hard_source(tmp_path / "source")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings and caches of these libraries lie in the test's folder, and none calls home."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    yield


def test_ultralytics_draws_the_label_maps(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path, settings: None
) -> None:
    data = pytest.importorskip("ultralytics.data.utils")
    dataset = pytest.importorskip("ultralytics.data.dataset")
    out = written(hard[0], "yolo-seg", tmp_path / "out")
    record = data.check_det_dataset(str(out / "data.yaml"), autodownload=False)
    assert tuple(record["names"].values()) == NAMES
    read = dataset.YOLODataset(record["train"], data=record, task="segment", augment=False)
    assert len(read.labels) == len(hard[1])
    for entry in read.labels:
        expected = hard[1][Path(entry["im_file"]).stem]
        assert entry["shape"] == expected.shape
        size = np.array(expected.shape[::-1], dtype=np.float32)
        rebuilt = np.full(expected.shape, NOTHING, dtype=np.int32)
        for number, points in zip(entry["cls"][:, 0], entry["segments"], strict=True):
            mask = data.polygon2mask(expected.shape, [(points * size).reshape(-1)])
            rebuilt[mask > 0] = int(number)
        assert (rebuilt == expected).all()


def datumaro_maps(folder: Path, format_: str) -> tuple[Any, dict[str, Label]]:
    """A data set in Datumaro, which CVAT reads uploads with; and its masks by picture."""
    datumaro = pytest.importorskip("datumaro")
    dataset = datumaro.Dataset.import_from(str(folder), format_)
    names = [category.name for category in dataset.categories()[datumaro.AnnotationType.label]]
    maps = {}
    for item in dataset:
        masks = [each for each in item.annotations if each.type is datumaro.AnnotationType.mask]
        known = [each for each in masks if names[each.label] in NAMES]
        shape = item.media.data.shape[:2] if item.media is not None else masks[0].image.shape
        label = np.full(shape, NOTHING, dtype=np.int32)
        for each in known:
            label[np.asarray(each.image) > 0] = NAMES.index(names[each.label])
        maps[item.id] = label
    return dataset, maps


@pytest.mark.parametrize("classes", [Classes(NAMES), GROUND])
def test_datumaro_reads_cvat_masks(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path, classes: Classes
) -> None:
    out = written(Source(classes, hard[0].images), "cvat", tmp_path / "out")
    with zipfile.ZipFile(out / "annotations.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    os.rename(out / "images", tmp_path / "unpacked" / "JPEGImages")
    _, maps = datumaro_maps(tmp_path / "unpacked", "voc_segmentation")
    assert set(maps) == set(hard[1])
    for name, expected in hard[1].items():
        found = maps[name]
        if classes.background is not None:  # in VOC no object; what has no label is not shown
            expected = np.where(expected == classes.background, NOTHING, expected)
            found = np.where(found == classes.background, NOTHING, found)
        assert (found == expected).all()


def test_datumaro_reads_coco(hard: tuple[Source, dict[str, Label]], tmp_path: Path) -> None:
    out = written(hard[0], "coco", tmp_path / "out")
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    os.rename(out / "images", root / "images")
    os.rename(
        out / "annotations" / "instances.json", root / "annotations" / "instances_default.json"
    )
    _, maps = datumaro_maps(root, "coco_instances")
    assert set(maps) == set(hard[1])
    assert all((maps[name] == expected).all() for name, expected in hard[1].items())


def test_label_studio_s_converter_decodes_the_brush_masks(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path
) -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    tasks = json.loads(
        (written(hard[0], "label-studio", tmp_path / "out") / "tasks.json").read_text()
    )
    assert len(tasks) == len(hard[1])
    for task in tasks:
        expected = hard[1][task["data"]["image_id"]]
        rebuilt = np.full(expected.shape, NOTHING, dtype=np.int32)
        [prediction] = task["predictions"]
        for entry in prediction["result"]:
            # Its converter reads entries whose value has been moved up a level.
            flat = entry | entry["value"]
            [(name, mask)] = brush.decode_from_annotation("tag", [flat]).items()
            assert name == f"tag-{entry['value']['brushlabels'][0]}-0"
            rebuilt[mask > 0] = NAMES.index(entry["value"]["brushlabels"][0])
        assert (rebuilt == expected).all()


@pytest.mark.parametrize("seed", range(3))
def test_brush_masks_of_label_studio_s_converter_are_read(seed: int) -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    mask = noise(seed, (90, 130)) == seed
    theirs = brush.encode_rle(np.repeat(mask.reshape(-1).astype(np.uint8) * 255, 4))
    assert (decode_brush(theirs, mask.shape) == mask).all()
    ours = np.reshape(brush.decode_rle(encode_brush(mask)), (*mask.shape, 4))
    assert (ours == np.repeat(mask[..., None] * 255, 4, axis=2)).all()


def test_hugging_face_loads_pictures_and_label_maps(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path, settings: None
) -> None:
    datasets = pytest.importorskip("datasets")
    out = written(hard[0], "hf", tmp_path / "out")
    read = datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "c"))
    assert list(read) == ["train"]
    assert set(read["train"].column_names) == {"image", "label", "image_id"}
    assert len(read["train"]) == len(hard[1])
    for row in read["train"]:
        expected = hard[1][row["image_id"]]
        values = np.asarray(row["label"]).astype(np.int32)
        assert (np.where(values == 255, NOTHING, values) == expected).all()
        assert row["image"].size == expected.shape[::-1]


def test_hugging_face_keeps_16_bits(tmp_path: Path, settings: None) -> None:
    datasets = pytest.importorskip("datasets")
    from tests.export.labels import write_labels

    names = [f"class {index}" for index in range(300)]
    label = np.arange(300, dtype=np.int32).reshape(15, 20)
    source = write_labels(tmp_path / "source", {"many.jpg": label}, names)
    out = written(source, "hf", tmp_path / "out")
    read = datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "c"))
    assert (np.asarray(read["train"][0]["label"]) == label).all()


def test_datumaro_reads_voc(hard: tuple[Source, dict[str, Label]], tmp_path: Path) -> None:
    out = written(hard[0], "voc", tmp_path / "out")
    _, maps = datumaro_maps(out, "voc_segmentation")
    assert set(maps) == set(hard[1])
    for name, expected in hard[1].items():
        assert Image.open(out / "SegmentationClass" / f"{name}.png").size == expected.shape[::-1]
        assert (maps[name] == expected).all()
