from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg import cli
from fmbseg.config import Config, parse_config
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.data.vocabulary.grouping import Grouping
from fmbseg.errors import DataError
from fmbseg.export.source import NOTHING, Classes, Source
from fmbseg.export.sources import open_source
from fmbseg.store.paths import Paths
from tests.export.labels import few, hard_source
from tests.workspace import draw_picture


def stage_config(root: Path) -> Config:
    data = {"name": "coco_stuff", "root": str(root), "split": "val2017"}
    return parse_config({"data": data})


def write_prediction(folder: Path, name: str, classes: list[str], background: int | None) -> None:
    """What `fmbseg predict` writes of a picture."""
    draw_picture(0, (40, 30)).save(folder / f"{name}.jpg")
    label = np.zeros((30, 40), dtype=np.uint8)
    label[:10] = 1
    label[20:] = 255
    Image.fromarray(label).save(folder / f"{name}.label.png")
    record = {"image": str(folder / f"{name}.jpg"), "classes": classes, "background": background}
    (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")


def test_an_out_of_the_stage_label(labelled: Paths, coco: Path) -> None:
    source = open_source(labelled.label, stage_config(coco))
    assert source.classes == Classes(load_vocabulary("coco_stuff").names)
    assert [image.image_id for image in source.images] == [f"{index:012d}" for index in range(5)]
    for image in source.images:
        values = np.asarray(Image.open(image.label_path)).astype(np.int32)
        assert (image.label(source.classes) == np.where(values == 255, NOTHING, values)).all()


def test_an_out_of_the_stage_label_away_from_its_project(labelled: Paths, coco: Path) -> None:
    words = load_vocabulary("coco_stuff")
    source = open_source(labelled.label, Config(), coco / "images" / "val2017", words)
    assert len(source.images) == 5
    assert source.scores == labelled.label / "masks.parquet"


def test_labels_of_other_pictures_are_refused(labelled: Paths, coco: Path) -> None:
    picture = coco / "images" / "val2017" / "000000000000.jpg"
    shutil.copy(picture, picture.with_name("another.jpg"))
    with pytest.raises(DataError, match=r"another\.png does not exist: .* is of other pictures"):
        open_source(labelled.label, stage_config(coco))


def test_predictions(tmp_path: Path) -> None:
    for name in ("a.b", "c"):
        write_prediction(tmp_path, name, ["dog", "ground"], 1)
    source = open_source(tmp_path, Config())
    assert [image.image_id for image in source.images] == ["a.b", "c"]
    assert source.classes == Classes(("dog", "ground"), 1)
    assert np.unique(source.images[0].label(source.classes)).tolist() == [NOTHING, 0, 1]
    (tmp_path / "c.jpg").unlink()
    with pytest.raises(DataError, match=r"c\.jpg does not exist: .* --images FOLDER"):
        open_source(tmp_path, Config())
    other = tmp_path / "pictures"
    other.mkdir()
    draw_picture(1, (40, 30)).save(other / "c.png")
    shutil.copy(tmp_path / "a.b.jpg", other)
    found = open_source(tmp_path, Config(), other)
    assert found.images[1].path == other / "c.png"


def test_predictions_of_two_vocabularies_are_refused(tmp_path: Path) -> None:
    write_prediction(tmp_path, "a", ["dog", "cat"], None)
    write_prediction(tmp_path, "b", ["dog", "sky"], None)
    with pytest.raises(DataError, match="has other classes than"):
        open_source(tmp_path, Config())
    assert open_source(tmp_path, Config(), vocabulary=few(("x", "y"))).classes.names == ("x", "y")


def test_a_class_named_background_is_the_background(tmp_path: Path) -> None:
    write_prediction(tmp_path, "a", ["dog", "background"], None)
    assert open_source(tmp_path, Config()).classes == Classes(("dog", "background"), 1)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    write_prediction(tmp_path, "a", ["dog", "cat"], None)
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json is no JSON"):
        open_source(tmp_path, Config())


def test_classes_are_exported_in_groups(tmp_path: Path) -> None:
    source, labels = hard_source(tmp_path / "own")
    (tmp_path / "groups.yaml").write_text(
        "living: [dog, potted plant]\nunlabelled: [sky]\nlawn: grass\n"
    )
    out = ["--out", str(tmp_path / "out"), "--groups", str(tmp_path / "groups.yaml")]
    (tmp_path / "classes.txt").write_text("\n".join(source.classes.names))
    place = ["--images", str(tmp_path / "own" / "images")]
    place += ["--vocabulary", str(tmp_path / "classes.txt")]
    assert cli._main(["export", "mmseg", str(tmp_path / "own" / "labels"), *place, *out]) == 0
    table = np.array([0, 0, 255, 1, 255])  # the last: no label
    for name, label in labels.items():
        with Image.open(tmp_path / "out" / "annotations" / "train" / f"{name}.png") as image:
            assert (np.asarray(image) == table[label]).all()
    assert "'living', 'lawn'" in (tmp_path / "out" / "dataset.py").read_text()


def test_masks_keep_their_scores_in_groups(tmp_path: Path) -> None:
    grouping = Grouping(("b", "a"), (1, 0, None))
    source = Source(Classes(("x", "y", "z"), background=0), (), grouping=grouping)
    assert source.written == Classes(("b", "a"), background=1)
    rows = [{"class_index": k, "vocabulary": None} for k in (0, 1, 2, None)]
    assert [row["class_index"] for row in source.masks(rows)] == [1, 0, None, None]
