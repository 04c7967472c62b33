"""Regions of a label map: each island of a class is one, with its holes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fmbseg.export.source import Classes, Label
from fmbseg.pseudo.tables import decode_mask

Row = dict[str, Any]


@dataclass(frozen=True)
class Region:
    """Pixels of one class that hang together (8 neighbours), or all of a class that is stuff.

    Attributes:
        class_index: of the source's classes.
        box: (x, y, width, height) in pixels.
        inside: [height, width] bool, the region within its box.
        score: cosine of its mask with its class's text (see `Classification`); None: not known.
    """

    class_index: int
    box: tuple[int, int, int, int]
    inside: npt.NDArray[np.bool_]
    score: float | None = None

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.inside))

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the box."""
        x, y, width, height = self.box
        return slice(y, y + height), slice(x, x + width)

    def mask(self, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """The region in the whole picture [H, W] bool; `size` is (H, W)."""
        mask = np.zeros(size, dtype=np.bool_)
        mask[self.place] = self.inside
        return mask


def regions(
    label: Label, classes: Classes, stuff: Collection[int] = (), masks: Sequence[Row] = ()
) -> list[Region]:
    """The regions of all classes but the background, by class and then from top to bottom.

    Args:
        label: [H, W], see `read_label`.
        classes: of the label map.
        stuff: classes that are no countable things: each is one region a picture.
        masks: the picture's rows of stage 1's table. A region takes the similarity of the mask of
            its class that covers most of it.
    """
    found: list[Region] = []
    for index in classes.objects:
        here = (label == index).view(np.uint8)
        if not here.any():
            continue
        if index in stuff:
            islands, boxes = here.astype(np.int32), [cv2.boundingRect(here)]
        else:
            _, islands, stats, _ = cv2.connectedComponentsWithStats(here, connectivity=8)
            boxes = stats[1:, :4].tolist()
        scores = _scores(islands, len(boxes), [row for row in masks if row["class_index"] == index])
        found += [
            Region(index, (x, y, width, height), islands[y : y + height, x : x + width] == n, score)
            for n, ((x, y, width, height), score) in enumerate(
                zip(boxes, scores, strict=True), start=1
            )
        ]
    return found


def _scores(islands: npt.NDArray[np.int32], count: int, rows: Sequence[Row]) -> list[float | None]:
    """The score of each island; islands count from 1, 0 is none."""
    covered = np.zeros(count + 1, dtype=np.int64)
    scores: list[float | None] = [None] * (count + 1)
    for row in rows:
        overlap = np.bincount(islands[decode_mask(row)], minlength=count + 1)
        for number in np.flatnonzero(overlap > covered).tolist():
            covered[number], scores[number] = overlap[number], row["similarity"]
    return scores[1:]
