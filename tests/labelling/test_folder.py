from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fmbseg.config import Config
from fmbseg.corrections import READERS
from fmbseg.corrections.store import import_corrections
from fmbseg.corrections.target import Target
from fmbseg.data.corrections import Correction, read_corrections
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names
from fmbseg.errors import DataError
from fmbseg.export.source import Classes
from fmbseg.export.sources import open_source
from fmbseg.labelling.folder import FolderReport, label_folder
from fmbseg.labelling.record import read_labelled
from fmbseg.machine.progress import silent_progress
from fmbseg.store.paths import Paths
from tests.workspace import SIZES, SPLIT, MakeConfig, draw_picture

WORDS = vocabulary_from_names(["dog", "grass", "sky"])


class Stopping:
    """A progress whose task is interrupted after some pictures, as Ctrl-C does it."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def task(self, description: str, total: int | None = None) -> Iterator[Stopping]:
        yield self if description == "label" else Stopping(1 << 30)

    def advance(self, count: int = 1) -> None:
        self.left -= count
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures, one in a sub-folder."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(("a.jpg", "b.png", "more/c.jpg")):
        draw_picture(seed, (64, 48)).save(folder / name)
    return folder


def labelled_by(pictures: Path, out: Path, config: Config, **options: Any) -> FolderReport:
    return label_folder(pictures, WORDS, config, out, silent_progress(), **options)


def test_a_folder_gets_what_the_stages_give(
    stage_1: Path, coco: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    words, out, stages = load_vocabulary("coco_stuff"), tmp_path / "out", Paths(stage_1)
    pictures = coco / "images" / SPLIT
    report = label_folder(pictures, words, make_config(), out, silent_progress())
    assert report.computed == len(SIZES)
    for path in sorted((stages.label / "labels").iterdir()):
        assert (out / "labels" / path.name).read_bytes() == path.read_bytes()
    for table, stage in (("masks.parquet", stages.label), ("detections.parquet", stages.detect)):
        assert pq.read_table(out / table).equals(pq.read_table(stage / table))
    source = open_source(out, Config())
    assert source.classes == Classes(words.names)
    assert [image.image_id for image in source.images] == [f"{i:012d}" for i in range(len(SIZES))]


def test_a_call_goes_on_and_labels_what_is_new(
    pictures: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    out, config = tmp_path / "out", make_config()
    with pytest.raises(KeyboardInterrupt):
        label_folder(pictures, WORDS, config, out, Stopping(2))
    assert not (out / "labelled.json").exists()
    assert labelled_by(pictures, out, config).computed == 1
    assert labelled_by(pictures, out, config).computed == 0
    draw_picture(7, (50, 40)).save(pictures / "d.png")
    (pictures / "a.jpg").unlink()
    assert labelled_by(pictures, out, config).computed == 1
    names = [image.image_id for image in read_labelled(out).images]
    assert names == ["b", "d", "more__c"]
    assert sorted(path.stem for path in (out / "labels").iterdir()) == names
    # Labels that were lost are there again without any being computed.
    (out / "labels" / "b.png").unlink()
    assert labelled_by(pictures, out, config).computed == 0
    assert (out / "labels" / "b.png").is_file()


def test_pictures_that_cannot_be_read_are_skipped_and_listed(
    pictures: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    content = (pictures / "a.jpg").read_bytes()
    (pictures / "cut.jpg").write_bytes(content[: len(content) // 2])
    (pictures / "more" / "text.png").write_text("no picture")
    out, config = tmp_path / "out", make_config()
    with pytest.raises(DataError, match=r"2 not read: .*cut\.jpg is broken.*text\.png is broken"):
        labelled_by(pictures, out, config, strict=True)
    assert not (out / "labels").exists()
    report = labelled_by(pictures, out, config)
    assert report.computed == 3
    assert set(report.labelled.skipped) == {"cut.jpg", "more/text.png"}
    with (out / "skipped.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["file", "reason"]
    assert dict(rows[1:]) == report.labelled.skipped


def test_the_summary_counts_classes(
    pictures: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    out = tmp_path / "out"
    report = labelled_by(pictures, out, make_config())
    labels = [np.asarray(Image.open(path)) for path in sorted((out / "labels").iterdir())]
    masks = pq.read_table(out / "masks.parquet").to_pylist()
    for row in report.summary:
        index = WORDS.names.index(row.name) if row.name in WORDS.names else UNLABELLED
        assert row.images == sum((label == index).any() for label in labels)
        pixels = sum(int((label == index).sum()) for label in labels)
        assert row.area == pytest.approx(pixels / sum(label.size for label in labels))
        own = [mask["similarity"] for mask in masks if mask["class_index"] == index]
        assert row.similarity == (pytest.approx(np.mean(own), abs=1e-6) if own else None)
    assert report.summary == labelled_by(pictures, out, make_config()).summary
    assert Image.open(out / "sheet.png").size[0] > 0


def test_labels_that_someone_changed_are_kept(
    pictures: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    out, config = tmp_path / "out", make_config()
    labelled_by(pictures, out, config)
    mine = out / "labels" / "a.png"
    Image.fromarray(np.zeros((48, 64), dtype=np.uint8)).save(mine)
    content = mine.read_bytes()
    other = vocabulary_from_names(["cat"])
    for words in (WORDS, other):
        with pytest.raises(DataError, match=r"a\.png was changed after it was made"):
            label_folder(pictures, words, config, out, silent_progress())
    assert mine.read_bytes() == content


def test_corrections_are_merged_over_the_labels(
    pictures: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    out, config = tmp_path / "out", make_config()
    labelled_by(pictures, out, config)
    machine = np.asarray(Image.open(out / "labels" / "a.png"))
    label = machine.copy()
    label[:20, :30] = (label[:20, :30] + 1) % len(WORDS)
    edited = tmp_path / "edited"
    edited.mkdir()
    Image.fromarray(label).save(edited / "a.png")
    Image.fromarray(label).save(out / "labels" / "a.png")  # where it was published, too
    with pytest.raises(DataError, match="keep a copy, which `fmbseg corrections import png`"):
        labelled_by(pictures, out, config)
    place, origin = tmp_path / "corrections", Correction("png", 0, by="Ada")
    target = Target(open_source(out, config))
    import_corrections(READERS["png"], edited, target, place, silent_progress(), origin)

    report = labelled_by(pictures, out, config, corrections=place)
    assert report.computed == 0
    assert (np.asarray(Image.open(out / "labels" / "a.png")) == label).all()
    assert (np.asarray(Image.open(out / "machine" / "a.png")) == machine).all()
    changed = int((label != machine).sum())
    record = read_corrections(out)
    assert record is not None and record.images == {"a": Correction("png", changed, by="Ada")}
    rows = pq.read_table(out / "masks.parquet").to_pylist()
    regions = [row for row in rows if row["source"] == "person"]
    assert {row["image_id"] for row in regions} == {"a"}
    assert sum(row["area"] for row in regions) == changed
    assert labelled_by(pictures, out, config, corrections=place).summary == report.summary
    # An export of it scores what the machine says against what it said.
    (image,) = [each for each in open_source(out, config).images if each.image_id == "a"]
    assert (
        image.machine_label(Classes(WORDS.names))
        == np.where(machine == 255, -1, machine.astype(int))
    ).all()

    labelled_by(pictures, out, config)
    assert (np.asarray(Image.open(out / "labels" / "a.png")) == machine).all()
    assert read_corrections(out) is None and not list((out / "machine").glob("*.png"))
    with pytest.raises(DataError, match="corrections of other classes"):
        other = vocabulary_from_names(["cat"])
        label_folder(pictures, other, config, out, silent_progress(), corrections=place)
    with pytest.raises(DataError, match="holds no corrections"):
        labelled_by(pictures, out, config, corrections=pictures)


def test_other_classes_make_other_labels(
    pictures: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    out, config = tmp_path / "out", make_config()
    labelled_by(pictures, out, config)
    (out / "notes.txt").write_text("mine")
    other = vocabulary_from_names(["cat", "sea"])
    report = label_folder(pictures, other, config, out, silent_progress())
    assert report.computed == 3
    assert read_labelled(out).classes == ("cat", "sea")
    assert (out / "notes.txt").read_text() == "mine"


def test_a_folder_of_others_is_left_alone(
    pictures: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    before = sorted(path.name for path in pictures.iterdir())
    with pytest.raises(DataError, match="holds something already"):
        labelled_by(pictures, pictures, make_config())
    assert sorted(path.name for path in pictures.iterdir()) == before
    with pytest.raises(DataError, match="is no folder"):
        labelled_by(tmp_path / "no", tmp_path / "out", make_config())


def test_labels_inside_the_folder_are_no_pictures(pictures: Path, make_config: MakeConfig) -> None:
    config = make_config()
    assert labelled_by(pictures, pictures / "out", config).computed == 3
    report = labelled_by(pictures, pictures / "out", config)
    assert (report.computed, len(report.labelled.images)) == (0, 3)


def test_pictures_of_one_content_share_a_result(
    pictures: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    shutil.copy(pictures / "a.jpg", pictures / "twin.jpg")
    report = labelled_by(pictures, tmp_path / "out", make_config())
    assert (report.computed, len(report.labelled.images)) == (3, 4)
    labels = tmp_path / "out" / "labels"
    assert (labels / "a.png").read_bytes() == (labels / "twin.png").read_bytes()
