"""What stage 1 has labelled, in a few lines, and what of it should give a reader pause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.pseudo.doubt import covers_nearly_all

AREAS = "areas.parquet"
AREAS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("vocabulary", pa.string(), nullable=False),
        pa.field("class_index", pa.int32(), nullable=False),  # 255: the unlabelled pixels
        pa.field("pixels", pa.int64(), nullable=False),
    ]
)
_TEXTS, _NUMBERS = ("vocabulary", "image_id"), ("class_index", "pixels")
_NAMED = 8  # classes a line names


@dataclass(frozen=True)
class LabelSummary:
    """Label maps counted.

    Attributes:
        images: how many there are.
        empty: how many of them have no labelled pixel.
        shares: [K + 1] share of all pixels of each class, then of the unlabelled ones.
    """

    images: int
    empty: int
    shares: npt.NDArray[np.float64]

    @property
    def unlabelled(self) -> float:
        """Share of the pixels without a label, 0 to 1."""
        return float(self.shares[-1])

    def lines(self, words: Vocabulary) -> list[str]:
        """The labels in two or three lines; `words`: their vocabulary."""
        lines = [
            f"{words.name}: {self.images} pictures, {self.empty} without a label; "
            f"{100 * self.unlabelled:.1f} % of the pixels unlabelled"
        ]
        largest = [index for index in np.argsort(-self.shares[:-1]) if self.shares[index]]
        if largest:
            parts = [f"{words.names[i]} {100 * self.shares[i]:.1f} %" for i in largest]
            lines.append(f"most pixels: {_named(parts)}")
        none = [name for name, share in zip(words.names, self.shares, strict=False) if not share]
        if none:
            lines.append(f"{len(none)} of {len(words)} classes have no label: {_named(none)}")
        return lines

    def doubt(self, words: Vocabulary) -> str | None:
        """What is wrong with labels that a head would learn little from; None: nothing."""
        if self.unlabelled == 1:
            return "nothing was labelled: lower detection.min_similarity, or name other classes"
        found = covers_nearly_all(self.shares[:-1], words)
        return found and (
            f"{found} of what is labelled, and a head trained on that says little else: look at "
            "the labels, and change the words, detection.min_similarity or the models"
        )


def area_rows(
    image_id: str, words: Vocabulary, label: npt.NDArray[np.integer[Any]]
) -> list[dict[str, Any]]:
    """The rows of `AREAS` of a label map [H, W] in a vocabulary."""
    values, counts = np.unique(label, return_counts=True)
    return [
        {
            "image_id": image_id,
            "vocabulary": words.name,
            "class_index": int(value),
            "pixels": int(count),
        }
        for value, count in zip(values, counts, strict=True)
    ]


def read_summary(folder: Path, words: Vocabulary) -> LabelSummary:
    """Of the label maps in a vocabulary that a folder has the `AREAS` of."""
    # Neither `read_table` nor `to_numpy`: they import pandas, which takes longer than all of this.
    table = pq.ParquetFile(folder / AREAS).read()
    names, ids = (np.array(table[name].to_pylist(), dtype=np.str_) for name in _TEXTS)
    classes, areas = (np.array(table[name].to_pylist(), dtype=np.int64) for name in _NUMBERS)
    named = names == words.name
    ids, classes, areas = ids[named], classes[named], areas[named]
    pixels = np.bincount(classes, areas, minlength=UNLABELLED + 1)
    counted = np.append(pixels[: len(words)], pixels[UNLABELLED])
    images, labelled = len(np.unique(ids)), len(np.unique(ids[classes != UNLABELLED]))
    return LabelSummary(images, images - labelled, counted / max(counted.sum(), 1))


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
