"""What people have corrected, laid over the machine's labels: maps, tables, and a record of it.

A corrected picture's label map is the person's as a whole. The machine's own stays beside it in
`machine/`; `masks.parquet` gets a row of the source `person` for each region whose label the person
changed, so what is whose can be told pixel by pixel; `corrections.json` says where each came from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fmbseg.data.corrections import (
    RECORD,
    Correction,
    Corrections,
    correction_file,
    read_correction,
    read_corrections,
)
from fmbseg.data.labels import Label
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError
from fmbseg.pseudo.edits import edited_label
from fmbseg.pseudo.labels import label_png, load_label
from fmbseg.pseudo.summary import AREAS, AREAS_SCHEMA, area_rows
from fmbseg.pseudo.tables import MASKS, MASKS_SCHEMA, PERSON, encode_masks
from fmbseg.store.digest import file_digest, json_digest

MACHINE = "machine"
"""Folder beside `labels` with the machine's own label maps of corrected pictures."""

# Of one class in one picture: each is encoded over the whole picture.
_ISLANDS = 64

Row = dict[str, Any]


@dataclass(frozen=True)
class Merging:
    """Corrections that are to be merged.

    Attributes:
        folder: of the corrections.
        corrections: which of them.
        words: the vocabulary that they are in.
        labels: folder of its label maps below the out that they are merged into.
    """

    folder: Path
    corrections: Corrections
    words: Vocabulary
    labels: Path = Path("labels")

    @property
    def digest(self) -> str:
        """Of all that is merged."""
        files = [correction_file(self.folder, each) for each in self.corrections.images]
        return json_digest([self.corrections.to_json(), list(map(file_digest, files))])

    def label(self, image_id: str, size: tuple[int, int]) -> Label | None:
        """A person's label map [H, W] of a picture; None: nobody has corrected it.

        Raises:
            DataError: it is missing, broken, of another size, or holds a value that is no class.
        """
        if image_id not in self.corrections.images:
            return None
        return read_correction(self.folder, image_id, size, len(self.words))

    def says(self, path: Path, name: str) -> bool:
        """Whether a label map that was edited where it was published is what a correction says.

        A file that is no label map says nothing.

        Args:
            path: the file.
            name: of it below the published folder, such as `labels/a.png`.
        """
        place = PurePosixPath(name)
        if not place.is_relative_to(self.labels):
            return False
        label = edited_label(path)
        if label is None:
            return False
        image_id = place.relative_to(self.labels).with_suffix("").as_posix()
        wanted = self.label(image_id, (label.shape[0], label.shape[1]))
        return wanted is not None and np.array_equal(wanted, label)

    def over(self, image_id: str, label: Path, machine: Path) -> tuple[Correction, Label, Label]:
        """Put a person's label map in the place of the machine's, which moves aside.

        Args:
            image_id: a picture that has been corrected.
            label: file of the machine's label map.
            machine: where that goes.

        Returns:
            What is known of the correction, with the pixels it changes here; the label map [H, W]
            before and after.
        """
        before = load_label(label, len(self.words))
        after = self.label(image_id, (before.shape[0], before.shape[1]))
        assert after is not None  # it has been corrected
        machine.parent.mkdir(parents=True, exist_ok=True)
        os.replace(label, machine)
        label.write_bytes(label_png(after))
        changed = int(np.count_nonzero(before != after))
        return replace(self.corrections.images[image_id], changed=changed), before, after

    def record(self, merged: dict[str, Correction]) -> str:
        """The content of `corrections.json` beside the merged labels."""
        return Corrections(self.corrections.classes, merged).to_json()


def open_merging(folder: Path, words: Vocabulary) -> Merging:
    """The corrections of a folder, for labels in a vocabulary.

    Raises:
        DataError: there are none, or they are of other classes.
    """
    found = read_corrections(folder)
    if found is None:
        raise DataError(f"{folder} holds no corrections: `fmbseg corrections import` makes some")
    if found.classes != words.names:
        raise DataError(f"{folder} has corrections of other classes: name those, or leave it out")
    return Merging(folder, found, words)


def merge(out: Path, merging: Merging) -> None:
    """Merge corrections into what a stage is about to publish.

    Args:
        out: folder with label maps, `areas.parquet` and `masks.parquet`; changed in place.
        merging: the corrections.

    Raises:
        DataError: a correction does not fit its picture.
    """
    merged: dict[str, Correction] = {}
    masks: list[Row] = []
    areas: list[Row] = []
    words = merging.words
    labels = out / merging.labels
    machine = out / MACHINE / merging.labels.relative_to("labels")
    next_ids = _next_ids(out / MASKS, merging.corrections.images)
    for image_id in sorted(merging.corrections.images):
        name = f"{image_id}.png"
        merged[image_id], before, after = merging.over(image_id, labels / name, machine / name)
        first = next_ids.get(image_id, 0)
        masks += person_rows(image_id, words, before, after, first)
        areas += area_rows(image_id, words, after)
    of_them = pc.field("image_id").isin(list(merged)) & (pc.field("vocabulary") == words.name)
    _rewrite(out / AREAS, ~of_them, areas, AREAS_SCHEMA)
    _rewrite(out / MASKS, None, masks, MASKS_SCHEMA)
    (out / RECORD).write_text(merging.record(merged), encoding="utf-8")


def person_rows(
    image_id: str, words: Vocabulary, before: Label, after: Label, first: int
) -> list[Row]:
    """Rows of `MASKS` for the regions [H, W] whose label a person changed; ids from `first` on.

    A region hangs together (8 neighbours) and has one class afterwards; one whose label was taken
    away has none. What falls apart into more than `_ISLANDS` parts is one region.
    """
    changed = before != after
    rows: list[Row] = []
    for index in np.unique(after[changed]).tolist():
        here = (changed & (after == index)).view(np.uint8)
        count, islands = cv2.connectedComponents(here, connectivity=8)
        named: Row = {}
        if index != words.unlabelled:
            named = {"class_index": index, "class_name": words.names[index]}
        if count - 1 > _ISLANDS:
            count, islands = 2, here.astype(np.int32)
        for island in range(1, count):
            mask = islands == island
            rows.append(
                {
                    "image_id": image_id,
                    "mask_id": first + len(rows),
                    "rle": encode_masks(mask[None])[0],
                    "height": after.shape[0],
                    "width": after.shape[1],
                    "area": int(np.count_nonzero(mask)),
                    "source": PERSON,
                    "vocabulary": words.name,
                    **named,
                }
            )
    return rows


def _next_ids(masks: Path, image_ids: Iterable[str]) -> dict[str, int]:
    """The first free id of each image that has masks."""
    wanted = pc.field("image_id").isin(list(image_ids))
    table = pq.read_table(masks, columns=["image_id", "mask_id"], filters=wanted)
    found = table.group_by("image_id").aggregate([("mask_id", "max")]).to_pylist()
    return {row["image_id"]: row["mask_id_max"] + 1 for row in found}


def _rewrite(path: Path, kept: Any, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Write a table anew with the rows that are kept (None: all) and some more, bit by bit."""
    temporary = path.with_suffix(".new")
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in pq.ParquetFile(path).iter_batches():
            table = pa.Table.from_batches([batch])
            writer.write_table((table if kept is None else table.filter(kept)).cast(schema))
        writer.write_table(pa.Table.from_pylist(list(rows), schema=schema))
    os.replace(temporary, path)
