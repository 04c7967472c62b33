"""Corrections laid over a small out, file by file; through the stages in tests/corrections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmbseg.data.corrections import Correction, Corrections, read_corrections
from fmbseg.data.vocabulary import vocabulary_from_names
from fmbseg.errors import DataError
from fmbseg.pseudo import merging
from fmbseg.pseudo.labels import load_label, save_label
from fmbseg.pseudo.merging import Merging, merge, open_merging, person_rows
from fmbseg.pseudo.summary import AREAS, AREAS_SCHEMA, area_rows
from fmbseg.pseudo.tables import (
    MASKS,
    MASKS_SCHEMA,
    decode_mask,
    encode_masks,
    mask_rows,
    write_table,
)

WORDS = vocabulary_from_names(["dog", "grass", "sky"])
Map = npt.NDArray[np.uint8]
# Of each picture the machine's label map; "b/c" lies in a folder, as the picture does.
MACHINE: dict[str, Map] = {
    "a": np.zeros((6, 8), dtype=np.uint8),
    "b/c": np.ones((5, 4), dtype=np.uint8),
    "d": np.full((3, 3), 255, dtype=np.uint8),
    "e": np.zeros((4, 4), dtype=np.uint8),
}


def corrected(image_id: str) -> Map:
    """Of "a" a block is sky now and a corner has no label; "b/c" is as it was; "e" is grass."""
    label = MACHINE[image_id].copy()
    if image_id == "e":
        label[:] = 1
    if image_id == "a":
        label[1:3, 2:6] = 2
        label[5, 7] = 255
    return label


def write_out(out: Path, labels: str = "labels") -> Path:
    """Label maps and tables as the stage makes them: of "a" two masks, of "d" one."""
    rows: list[dict[str, Any]] = []
    areas: list[dict[str, Any]] = []
    for image_id, label in MACHINE.items():
        save_label(out / labels / f"{image_id}.png", label)
        areas += area_rows(image_id, WORDS, label)
        count = {"a": 2, "d": 1}.get(image_id, 0)
        masks = np.ones((count, *label.shape), dtype=bool)
        rows += mask_rows(image_id, "automatic", masks, np.ones(count, dtype=np.float32))
    other = vocabulary_from_names(["cat"])
    areas += [row | {"vocabulary": "another"} for row in area_rows("a", other, MACHINE["a"])]
    write_table(out / AREAS, areas, AREAS_SCHEMA)
    write_table(out / MASKS, rows, MASKS_SCHEMA)
    return out


def write_corrections(folder: Path) -> Path:
    images = {"b/c": Correction("coco", 9), "a": Correction("png", 0, "Ada", "2026-01-01")}
    images["e"] = Correction("png", 0)
    for image_id in images:
        save_label(folder / "labels" / f"{image_id}.png", corrected(image_id))
    (folder / "corrections.json").write_text(Corrections(WORDS.names, images).to_json())
    return folder


@pytest.fixture
def opened(tmp_path: Path) -> Merging:
    return open_merging(write_corrections(tmp_path / "corrections"), WORDS)


@pytest.mark.parametrize("labels", ["labels", "labels/words"])
def test_labels_and_tables_are_a_person_s_where_one_has_corrected(
    opened: Merging, tmp_path: Path, labels: str
) -> None:
    out = write_out(tmp_path / "out", labels)
    areas, masks = (pq.read_table(out / name).to_pylist() for name in (AREAS, MASKS))
    merge(out, Merging(opened.folder, opened.corrections, WORDS, Path(labels)))
    beside = Path("machine") / Path(labels).relative_to("labels")
    for image_id, machine in MACHINE.items():
        expected = machine if image_id == "d" else corrected(image_id)
        assert (load_label(out / labels / f"{image_id}.png") == expected).all()
        moved = out / beside / f"{image_id}.png"
        assert moved.exists() == (image_id != "d")
        assert image_id == "d" or (load_label(moved) == machine).all()
    # What was counted of them is counted anew; all else stands as it did, in its order.
    found = pq.read_table(out / AREAS)
    assert found.schema == AREAS_SCHEMA
    kept = [r for r in areas if r["image_id"] == "d" or r["vocabulary"] == "another"]
    new = [row for name in ("a", "b/c", "e") for row in area_rows(name, WORDS, corrected(name))]
    assert found.to_pylist() == kept + new
    after = pq.read_table(out / MASKS)
    assert after.schema == MASKS_SCHEMA
    assert after.to_pylist()[:3] == masks
    regions = after.to_pylist()[3:]
    assert [(row["image_id"], row["mask_id"]) for row in regions] == [
        ("a", 2),
        ("a", 3),
        ("e", 0),
    ]
    record = read_corrections(out)
    assert record is not None and record.classes == WORDS.names
    assert record.images == {
        "a": Correction("png", 9, "Ada", "2026-01-01"),
        "b/c": Correction("coco", 0),
        "e": Correction("png", 16),
    }
    names = {path.relative_to(out).parts[0] for path in out.rglob("*")}
    assert names == {"labels", "machine", AREAS, MASKS, "corrections.json"}


def test_each_changed_region_is_a_row() -> None:
    before, after = MACHINE["a"], corrected("a")
    sky, none = person_rows("a", WORDS, before, after, first=5)
    block, corner = np.zeros((2, *after.shape), dtype=bool)
    block[1:3, 2:6] = corner[5, 7] = True
    common = {"image_id": "a", "height": 6, "width": 8, "source": "person"}
    common["vocabulary"] = WORDS.name
    assert sky == {
        **common,
        "mask_id": 5,
        "rle": encode_masks(block[None])[0],
        "area": 8,
        "class_index": 2,
        "class_name": "sky",
    }
    assert none == {**common, "mask_id": 6, "rle": encode_masks(corner[None])[0], "area": 1}
    assert person_rows("a", WORDS, before, before, first=0) == []


@pytest.mark.parametrize("islands", [64, 65])
def test_what_falls_into_more_than_64_parts_is_one_region(islands: int) -> None:
    before: Map = np.zeros((20, 40), dtype=np.uint8)
    after = before.copy()
    # None of them touches another.
    places = [(row, column) for row in range(0, 20, 2) for column in range(0, 40, 2)]
    for place in places[:islands]:
        after[place] = 1
    rows = person_rows("a", WORDS, before, after, first=0)
    assert len(rows) == (islands if islands == 64 else 1)
    assert sum(row["area"] for row in rows) == islands
    covered = np.any([decode_mask(row) for row in rows], axis=0)
    assert (covered == (after == 1)).all()


def test_an_edit_in_place_that_a_correction_says_as_well_is_not_lost(
    opened: Merging, tmp_path: Path
) -> None:
    path = tmp_path / "edited.png"
    save_label(path, corrected("a"))
    assert opened.says(path, "labels/a.png")
    # Another picture's, one that nobody has corrected, and a file elsewhere.
    assert not opened.says(path, "labels/d.png")
    assert not opened.says(path, "machine/a.png")
    save_label(path, corrected("b/c"))
    assert opened.says(path, "labels/b/c.png")
    edited = corrected("a")
    edited[0, 0] = 1
    save_label(path, edited)
    assert not opened.says(path, "labels/a.png")
    path.write_bytes(b"no picture")
    assert not opened.says(path, "labels/a.png")


def test_a_correction_of_another_size_or_class_is_refused(opened: Merging, tmp_path: Path) -> None:
    assert opened.label("d", (3, 3)) is None
    with pytest.raises(DataError, match="own size"):
        opened.label("a", (8, 6))
    wrong = corrected("a")
    wrong[0, 0] = 3
    save_label(opened.folder / "labels" / "a.png", wrong)
    with pytest.raises(DataError, match="holds the value 3"):
        opened.label("a", (6, 8))


def test_the_digest_is_of_all_that_is_merged(tmp_path: Path) -> None:
    first, second = (write_corrections(tmp_path / name) for name in ("one", "two"))
    before = open_merging(first, WORDS).digest
    assert open_merging(second, WORDS).digest == before
    save_label(second / "labels" / "a.png", MACHINE["a"])
    changed = open_merging(second, WORDS).digest
    assert changed != before
    (second / "corrections.json").write_text(
        Corrections(WORDS.names, {"a": Correction("png", 0)}).to_json()
    )
    assert open_merging(second, WORDS).digest not in (before, changed)


def test_corrections_of_other_classes_are_refused(opened: Merging, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no corrections"):
        open_merging(tmp_path, WORDS)
    with pytest.raises(DataError, match="of other classes"):
        open_merging(opened.folder, vocabulary_from_names(["dog", "grass"]))


def test_tables_are_rewritten_batch_by_batch(tmp_path: Path) -> None:
    """A table of more rows than are in memory at once keeps them all, in their order."""
    names = [f"{n:06d}" for n in range(70_000)]
    numbers = {name: [1] * len(names) for name in ("class_index", "pixels")}
    columns = {"image_id": names, "vocabulary": ["words"] * len(names), **numbers}
    pq.write_table(pa.table(columns, schema=AREAS_SCHEMA), tmp_path / AREAS)
    more = area_rows("another", WORDS, MACHINE["d"])
    merging._rewrite(tmp_path / AREAS, None, more, AREAS_SCHEMA)
    found = pq.read_table(tmp_path / AREAS)
    assert found.column("image_id").to_pylist() == [*names, "another"]
    assert [path.name for path in tmp_path.iterdir()] == [AREAS]
