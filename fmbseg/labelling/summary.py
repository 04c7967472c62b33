"""What a labelled folder holds, class by class, and a sheet of examples."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fmbseg.data.images import read_image
from fmbseg.data.labels import Label, unlabelled
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.labelling.pictures import Picture
from fmbseg.pseudo.labels import load_label
from fmbseg.view.sheet import label_sheet

SUMMARY = "summary.csv"
_EXAMPLES = 12


@dataclass(frozen=True)
class ClassSummary:
    """One class.

    Attributes:
        name: of the class; "unlabelled" for the rest.
        images: pictures in whose label map it is.
        area: share of all pixels, 0 to 1.
        similarity: mean cosine of its masks with its text; None: it has no mask.
    """

    name: str
    images: int
    area: float
    similarity: float | None


_COLUMNS = tuple(field.name for field in fields(ClassSummary))


class Summary:
    """Counts picture by picture.

    Args:
        names: class names in index order.
        min_similarity: masks below are in no label map, and do not count.
    """

    def __init__(self, names: Sequence[str], min_similarity: float) -> None:
        self._names = names
        self._least = min_similarity
        self._nothing = unlabelled(len(names))
        self._images = np.zeros(self._nothing + 1, dtype=np.int64)
        self._pixels = np.zeros(self._nothing + 1, dtype=np.int64)
        self._similarities: list[list[float]] = [[] for _ in names]

    def add(self, label: Label, masks: Iterable[Any]) -> None:
        """Count a label map [H, W] and the rows of its masks."""
        pixels = np.bincount(label.reshape(-1), minlength=self._nothing + 1)
        self._pixels += pixels
        self._images += pixels > 0
        for row in masks:
            value = row.get("similarity")
            if value is not None and value >= self._least:
                self._similarities[row["class_index"]].append(value)

    def rows(self) -> list[ClassSummary]:
        """Classes by their area, the largest first; unlabelled pixels last."""
        total = max(1, int(self._pixels.sum()))
        rows = []
        for index, name in enumerate(self._names):
            values = self._similarities[index]
            rows.append(
                ClassSummary(
                    name,
                    int(self._images[index]),
                    int(self._pixels[index]) / total,
                    float(np.mean(values)) if values else None,
                )
            )
        rest = ClassSummary(
            "unlabelled",
            int(self._images[self._nothing]),
            int(self._pixels[self._nothing]) / total,
            None,
        )
        return [*sorted(rows, key=lambda row: -row.area), rest]


def write_summary(path: Path, rows: Iterable[ClassSummary]) -> None:
    """Write the rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(_COLUMNS)
        table.writerows(astuple(row) for row in rows)


def read_summary(path: Path) -> list[ClassSummary]:
    """The rows that `write_summary` wrote."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            ClassSummary(name, int(images), float(area), float(value) if value else None)
            for name, images, area, value in list(csv.reader(stream))[1:]
        ]


def sheet(pictures: Sequence[Picture], labels: Path, words: Vocabulary) -> Image.Image:
    """Up to twelve pictures, evenly spread, coloured by their label maps in the folder `labels`."""
    count = min(_EXAMPLES, len(pictures))
    chosen = [pictures[index * len(pictures) // count] for index in range(count)]
    panels = [
        (
            each.file.file,
            read_image(each.path),
            load_label(labels / f"{each.file.image_id}.png", len(words)),
        )
        for each in chosen
    ]
    return label_sheet(panels, words.names, words.background)
