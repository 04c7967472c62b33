"""Which mask painted which pixels of a label map, and what the other masks say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.config import LabelSection
from fmbseg.pseudo.tables import PERSON, StoredMasks, is_labelled

Row = dict[str, Any]
Label = npt.NDArray[np.integer]
_NOTHING = -1  # as in the label maps of exports


@dataclass(frozen=True)
class Painting:
    """A label map taken apart into its masks.

    Attributes:
        rows: of the picture's masks, those of 1.1 first.
        owner: [H, W] int32, index of the mask that painted a pixel; -1 for none.
        queried: [H, W] int32, what the masks of 1.1 alone say; -1 for nothing.
    """

    rows: Sequence[Row]
    owner: npt.NDArray[np.int32]
    queried: npt.NDArray[np.int32]

    @property
    def label(self) -> npt.NDArray[np.int32]:
        """[H, W] the label map that the masks give together; -1 for nothing."""
        classes = [row["class_index"] for row in self.rows]
        values = np.array([_NOTHING if each is None else each for each in classes] + [_NOTHING])
        return values.astype(np.int32)[self.owner]

    def visible(self, min_area: float = 0.0) -> dict[int, npt.NDArray[np.bool_]]:
        """Of each mask that can be seen, by its index, where: [H, W] bool.

        Args:
            min_area: share of the picture that must be seen of it.
        """
        found, pixels = np.unique(self.owner[self.owner >= 0], return_counts=True)
        large = found[pixels >= min_area * self.owner.size].tolist()
        return {index: self.owner == index for index in large}

    def disagreement(self, index: int, visible: npt.NDArray[np.bool_]) -> float:
        """How far masks of 1.1 and of 1.2 differ where one was painted, 0 to 1.

        For a mask of 1.2 the share that those of 1.1 call otherwise, and half of what they are
        silent about; for one of 1.1 the share that those of 1.2 have painted over as another class.
        """
        row = self.rows[index]
        if row["source"] != "query":
            said = self.queried[visible]
            other = (said != row["class_index"]) & (said != _NOTHING)
            return float(other.mean() + 0.5 * (said == _NOTHING).mean())
        whole = StoredMasks([row])[0]
        return float((self.label[whole] != row["class_index"]).mean())


def painting(
    rows: Sequence[Row],
    section: LabelSection,
    size: tuple[int, int],
    least: Sequence[float] | None = None,
) -> Painting:
    """Paint the masks of a picture of (height, width) anew, as `compose` does.

    Args:
        rows: of `masks.parquet`, of one picture and vocabulary.
        section: which masks were painted.
        size: (H, W).
        least: the classes' own least similarities, see `Vocabulary.thresholds`.
    """
    rows = [row for row in rows if row["source"] != PERSON]
    owner = np.full(size, -1, dtype=np.int32)
    queried = np.full(size, _NOTHING, dtype=np.int32)
    for source, used in (("query", section.use_queries), ("automatic", section.use_masks)):
        layer = [i for i, row in enumerate(rows) if used and row["source"] == source]
        for index in sorted(layer, key=lambda i: -rows[i]["area"]):
            row = rows[index]
            if not is_labelled(row, section.min_similarity, least):
                continue
            mask = StoredMasks([row])[0]
            owner[mask] = index
            if source == "query":
                queried[mask] = row["class_index"]
    return Painting(rows, owner, queried)
