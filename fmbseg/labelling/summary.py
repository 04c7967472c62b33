"""What a labelled folder holds, class by class, and a sheet of examples."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.data.images import read_image
from fmbseg.data.labels import Label, count_labels, unlabelled
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.pseudo.labels import load_label
from fmbseg.view.sheet import label_sheet

SUMMARY = "summary.csv"
NO_LABEL = "unlabelled"
"""Name of the row of pixels without a label."""

_EXAMPLES = 12
_NAMED = 40  # classes that a line names


@dataclass(frozen=True)
class ClassSummary:
    """One class.

    Attributes:
        name: of the class; "unlabelled" for the rest.
        images: pictures in whose label map it is.
        area: share of all pixels, 0 to 1.
        similarity: mean cosine of its masks with its text, or what else was counted for it; None:
            nothing was.
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
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._nothing = unlabelled(len(names))
        self._images = np.zeros(self._nothing + 1, dtype=np.int64)
        self._pixels = np.zeros(self._nothing + 1, dtype=np.int64)
        self._weights = np.zeros(len(names))
        self._sums = np.zeros(len(names))

    @property
    def pixels(self) -> npt.NDArray[np.int64]:
        """[K] pixels of each class so far."""
        return self._pixels[: len(self._names)]

    def add(self, label: Label, values: Iterable[tuple[int, float, float]]) -> None:
        """Count a label map [H, W], and values that a class has, as (class, value, weight)."""
        pixels = count_labels(label, self._nothing + 1)
        self._pixels += pixels
        self._images += pixels > 0
        for index, value, weight in values:
            self._sums[index] += value * weight
            self._weights[index] += weight

    def rows(self) -> list[ClassSummary]:
        """Classes by their area, the largest first; unlabelled pixels last."""
        total = max(1, int(self._pixels.sum()))
        rows = []
        for index, name in enumerate(self._names):
            weight = self._weights[index]
            rows.append(
                ClassSummary(
                    name,
                    int(self._images[index]),
                    int(self._pixels[index]) / total,
                    float(self._sums[index] / weight) if weight else None,
                )
            )
        rest = ClassSummary(
            NO_LABEL,
            int(self._images[self._nothing]),
            int(self._pixels[self._nothing]) / total,
            None,
        )
        return [*sorted(rows, key=lambda row: -row.area), rest]


def class_table(
    rows: Sequence[ClassSummary], measure: str, counted: str = "images"
) -> Iterator[str]:
    """The rows as lines of a table; classes in no picture are named below it.

    Args:
        rows: as `Summary` gives them.
        measure: what `similarity` is.
        counted: what `images` are, a word of six letters.
    """
    found = [row for row in rows if row.images]
    width = max(len("class"), *(len(row.name) for row in found))
    yield f"{'class':{width}}  {counted}    area  {measure}"
    for row in found:
        value = "" if row.similarity is None else f"{row.similarity:{len(measure)}.3f}"
        yield f"{row.name:{width}}  {row.images:6d}  {100 * row.area:4.1f} %  {value}".rstrip()
    if never := [row.name for row in rows if not row.images and row.name != NO_LABEL]:
        more = f" and {len(never) - _NAMED} more" if len(never) > _NAMED else ""
        yield f"in no picture ({len(never)}): {', '.join(never[:_NAMED])}{more}"


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


def sheet(
    pictures: Sequence[tuple[str, Path, Path]], words: Vocabulary, pale: bool = False
) -> Image.Image:
    """Up to twelve pictures, evenly spread, coloured by their label maps.

    Args:
        pictures: captions, pictures and their label maps; at least one.
        words: the classes.
        pale: see `fmbseg.view.overlay.overlay`.
    """
    count = min(_EXAMPLES, len(pictures))
    chosen = [pictures[index * len(pictures) // count] for index in range(count)]
    panels = [
        (caption, read_image(picture), load_label(label, len(words)))
        for caption, picture, label in chosen
    ]
    return label_sheet(panels, words.names, words.background, pale)
