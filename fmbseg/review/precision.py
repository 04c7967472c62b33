"""How good a ranking is at finding what is wrong, where the truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fmbseg.data.labels import UNLABELLED


@dataclass(frozen=True)
class Precision:
    """A ranking held against the truth.

    Attributes:
        masks: how many were ranked.
        base: share of them that are wrong: the precision of a random order.
        average: average precision, the mean of the precision at each wrong mask.
        first: precision among the first tenth.
    """

    masks: int
    base: float
    average: float
    first: float

    @property
    def lift(self) -> float:
        """How many times as many wrong masks are in the first tenth as in a random tenth."""
        return self.first / self.base if self.base else float("nan")

    @property
    def highest(self) -> float:
        """The lift of a perfect order."""
        return min(1 / self.base, 10.0) if self.base else float("nan")


def precision(wrong: npt.NDArray[np.bool_], share: float = 0.1) -> Precision:
    """Of masks [M] in their order, which of them are wrong; `share`: what counts as the first."""
    count = len(wrong)
    found = np.cumsum(wrong)
    at = np.flatnonzero(wrong)
    first = max(1, round(share * count))
    average = float((found[at] / (at + 1)).mean()) if len(at) else 0.0
    return Precision(count, float(wrong.mean()), average, float(wrong[:first].mean()))


def wrong_class(
    visible: npt.NDArray[np.bool_], truth: npt.NDArray[np.integer], index: int
) -> bool | None:
    """Whether most of a mask's visible pixels are not of its class; None: no truth is known there.

    Args:
        visible: [H, W].
        truth: [H, W] class indices, 255 where nothing is known.
        index: the class of the mask.
    """
    values = truth[visible]
    values = values[values != UNLABELLED]
    if not len(values):
        return None
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()]) != index
