"""How mIoU depends on the background threshold, from one pass over the data.

The best threshold of a sweep is chosen on the benchmark's own truth, so its mIoU is an oracle: it
is reported apart from the results, never as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fmbseg.data.labels import UNLABELLED
from fmbseg.errors import DataError
from fmbseg.evaluate.metrics import ConfusionMatrix

if TYPE_CHECKING:
    from fmbseg.inference.decision import Threshold

# Of a softmax as sharp as ours most pixels are nearly sure: the last tenths are parted again.
_GRIDS = {
    "probability": (
        *(round(0.05 * step, 2) for step in range(18)),
        *(round(0.9 + 0.01 * step, 2) for step in range(9)),
        *(round(0.99 + 0.001 * step, 3) for step in range(10)),
    ),
    "cosine": tuple(round(0.025 * step, 3) for step in range(21)),
}


def grid(rule: Threshold) -> tuple[float, ...]:
    """Thresholds that are compared, ascending: those of its measure, and its own value."""
    values = _GRIDS[rule.measure]
    # In the precision in which the rule itself compares.
    known = np.float32(rule.value) in np.array(values, dtype=np.float32)
    return values if known else tuple(sorted((*values, rule.value)))


class ThresholdSweep:
    """Pixel counts of (bin of confidence, target, best class), accumulated over a data set.

    A pixel whose confidence is below a threshold becomes background. Bin b holds the pixels that
    reach the first b thresholds and no more, so the confusion matrix of any of the thresholds is
    a sum of bins.

    Attributes:
        thresholds: ascending.
        background: index of the background class.
        counts: [T + 1, K, K + 1] int64 pixels; the last column as in `ConfusionMatrix`.
    """

    def __init__(self, num_classes: int, background: int, thresholds: tuple[float, ...]) -> None:
        self.thresholds = thresholds
        self.background = background
        shape = (len(thresholds) + 1, num_classes, num_classes + 1)
        self.counts: NDArray[np.int64] = np.zeros(shape, dtype=np.int64)

    def update(
        self,
        best: NDArray[np.int64],
        confidence: NDArray[np.float32],
        target: NDArray[np.int64],
    ) -> None:
        """Count one image.

        Args:
            best: [H, W] the most similar class, before any threshold.
            confidence: [H, W] what thresholds are compared with.
            target: [H, W] class indices or 255, checked by `ConfusionMatrix`.
        """
        _, classes, columns = self.counts.shape
        scored = target != UNLABELLED
        # In the precision in which the rule itself compares.
        limits = np.array(self.thresholds, dtype=np.float32)
        reached = np.searchsorted(limits, confidence[scored], side="right")
        index = (reached * classes + target[scored]) * columns + best[scored]
        self.counts += np.bincount(index, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: ThresholdSweep) -> None:
        """Add the counts of other images; raises DataError for other thresholds or classes."""
        mine = self.thresholds, self.background, self.counts.shape
        if mine != (other.thresholds, other.background, other.counts.shape):
            raise DataError("cannot merge sweeps of other thresholds: score both the same way")
        self.counts += other.counts

    def at(self, index: int) -> ConfusionMatrix:
        """The confusion matrix with the threshold of that index."""
        below, kept = self.counts[: index + 1].sum(axis=0), self.counts[index + 1 :].sum(axis=0)
        matrix = ConfusionMatrix(kept.shape[0])
        matrix.matrix += kept
        matrix.matrix[:, self.background] += below.sum(axis=1)
        return matrix

    def mious(self) -> list[float]:
        """Percent, of each threshold; NaN when nothing was counted."""
        return [self.at(index).miou() for index in range(len(self.thresholds))]
