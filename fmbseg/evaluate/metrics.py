"""Dataset metrics of semantic segmentation, from one accumulated confusion matrix.

The field's mIoU is the mean over classes of the IoU of the whole data set's pixels, not a mean
over images; classes with an empty union are left out of it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary.grouping import Grouping
from fmbseg.errors import DataError

if TYPE_CHECKING:  # counts that are kept are read without it
    import torch

LabelMap: TypeAlias = "torch.Tensor | NDArray[Any]"

_BYTES = 256
_EXACT = 2**24  # pixels at once: OpenCV counts in float32


class ConfusionMatrix:
    """Pixel counts of (target class, predicted class), accumulated over a data set.

    Pixels whose target is `ignore_index` are counted nowhere. A prediction outside
    0..num_classes-1 (an unlabelled pixel, say 255) is a miss of its target class: it enlarges
    that class's union and is no class's false positive.

    >>> import numpy as np
    >>> counts = ConfusionMatrix(2)
    >>> counts.update(np.array([[0, 0], [1, 0]]), np.array([[0, 0], [1, 1]]))
    >>> counts.update(np.array([[1, 255]]), np.array([[255, 1]]))
    >>> counts.iou().round(1).tolist()
    [66.7, 33.3]
    >>> round(counts.miou(), 1)
    50.0

    Attributes:
        matrix: [K, K + 1] int64 pixels, rows target, columns prediction; the last column holds the
            predictions that are no class.
    """

    def __init__(self, num_classes: int, ignore_index: int = UNLABELLED) -> None:
        """Start with zero counts.

        Raises:
            DataError: `num_classes` is below 1.
        """
        if num_classes < 1:
            raise DataError(f"a confusion matrix needs at least one class, not {num_classes}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix: NDArray[np.int64] = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    def update(self, prediction: LabelMap, target: LabelMap) -> None:
        """Count the pixels of one image, or of a stack of them.

        Args:
            prediction: [...] any integer dtype, class indices; other values are misses.
            target: the same shape, class indices or `ignore_index`.

        Raises:
            DataError: the shapes differ, a dtype is not an integer one, or a target is neither a
                class nor `ignore_index`. Nothing is counted then.
        """
        predicted, truth = _integers(prediction, "prediction"), _integers(target, "target")
        require_same_shape(predicted, truth)
        pairs = _pairs(predicted, truth)
        if pairs is not None and self.num_classes < _BYTES and 0 <= self.ignore_index < _BYTES:
            self._add_pairs(pairs)
            return
        scored = truth != self.ignore_index
        # int64 before any arithmetic: labels are mostly uint8, and 20 * 21 overflows it.
        truth, predicted = truth[scored].astype(np.int64), predicted[scored].astype(np.int64)
        classes = self.num_classes
        if truth.size and (truth.min() < 0 or truth.max() >= classes):
            self._refuse(int(truth[(truth < 0) | (truth >= classes)][0]))
        predicted[(predicted < 0) | (predicted >= classes)] = classes
        index = truth * (classes + 1) + predicted
        self.matrix += np.bincount(index, minlength=self.matrix.size).reshape(self.matrix.shape)

    def _add_pairs(self, pairs: NDArray[np.int64]) -> None:
        classes, present = self.num_classes, pairs.sum(axis=1)
        present[:classes] = present[self.ignore_index] = 0
        if present.any():
            self._refuse(int(present.argmax()))
        scored = pairs[:classes].copy()
        if self.ignore_index < classes:
            scored[self.ignore_index] = 0
        self.matrix[:, :classes] += scored[:, :classes]
        self.matrix[:, classes] += scored[:, classes:].sum(axis=1)

    def _refuse(self, wrong: int) -> NoReturn:
        classes = self.num_classes
        raise DataError(
            f"target label {wrong} is neither one of {classes} classes (0..{classes - 1}) nor "
            f"the ignored label {self.ignore_index}: check the data set's decoding"
        )

    def merge(self, other: ConfusionMatrix) -> None:
        """Add another matrix's counts, as if its images had been counted here.

        Raises:
            DataError: the number of classes or the ignored label differs.
        """
        mine = self.num_classes, self.ignore_index
        theirs = other.num_classes, other.ignore_index
        if mine != theirs:
            raise DataError(
                f"cannot merge confusion matrices of (classes, ignored) {mine} and {theirs}: "
                "score both with the same vocabulary"
            )
        self.matrix += other.matrix

    def grouped(self, grouping: Grouping) -> ConfusionMatrix:
        """The counts of groups of classes; pixels whose class is in no group are not scored."""
        found = ConfusionMatrix(len(grouping.names), self.ignore_index)
        found.matrix += grouping.folded(self.matrix)
        return found

    def confusions(self, count: int) -> list[tuple[int, int, int]]:
        """The largest off-diagonal counts.

        Returns:
            At most `count` of (target class, predicted class, pixels), the largest first; the
            predicted class is `num_classes` where it is none.
        """
        wrong = self.matrix.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        found = [(*divmod(int(place), wrong.shape[1]), int(wrong.flat[place])) for place in order]
        return [entry for entry in found if entry[2]]

    @property
    def target_pixels(self) -> NDArray[np.int64]:
        """[K] int64, scored pixels of each class in the ground truth."""
        total: NDArray[np.int64] = self.matrix.sum(axis=1)
        return total

    def iou(self) -> NDArray[np.float64]:
        """[K] float64 percent, intersection over union of each class; NaN for an empty union."""
        hits = np.diagonal(self.matrix)
        predicted = self.matrix[:, : self.num_classes].sum(axis=0)
        return percent_iou(hits, self.target_pixels + predicted - hits)

    def miou(self) -> float:
        """Percent, mean IoU over the classes with a union; NaN when nothing was counted."""
        return mean_of(self.iou())

    def miou_present(self) -> float:
        """Percent, mean IoU over the classes present in the ground truth; NaN when none is."""
        return mean_of(self.iou()[self.target_pixels > 0])

    def pixel_accuracy(self) -> float:
        """Percent of the scored pixels that were labelled right; NaN when nothing was counted."""
        total = int(self.matrix.sum())
        return 100.0 * float(np.trace(self.matrix)) / total if total else float("nan")

    def mean_accuracy(self) -> float:
        """Percent, mean over the classes in the truth of the share of their pixels found."""
        total = self.target_pixels
        present = total > 0
        return mean_of(100.0 * np.diagonal(self.matrix)[present] / total[present])


def percent_iou(hits: NDArray[np.int64], union: NDArray[np.int64]) -> NDArray[np.float64]:
    """[K] float64 percent of counts [K]; NaN where the union is empty."""
    iou = np.full(len(union), np.nan)
    np.divide(100.0 * hits, union, out=iou, where=union > 0)
    return iou


def mean_of(values: NDArray[np.float64]) -> float:
    """The mean of what is not NaN; NaN where nothing is left."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")


def require_same_shape(prediction: NDArray[Any], target: NDArray[Any]) -> None:
    """Raises DataError where a prediction has another shape than its target."""
    if prediction.shape != target.shape:
        raise DataError(
            f"prediction {list(prediction.shape)} and target {list(target.shape)} differ in "
            "shape: resize the prediction to the label map"
        )


def _integers(values: LabelMap, name: str) -> NDArray[Any]:
    # Who hands a tensor over has imported torch.
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    array: NDArray[Any] = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise DataError(f"{name} must be class indices of an integer dtype, not {array.dtype}")
    return array


def _pairs(predicted: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.int64] | None:
    """[256, 256] how often each (target, prediction) is there; None: not all targets are bytes.

    OpenCV's histogram of two bytes is many times as fast as a sum over 64-bit indices. A prediction
    that is no byte counts as 255, which is no class of those that are counted so.
    """
    if not truth.size or (truth.dtype != np.uint8 and (truth.min() < 0 or truth.max() >= _BYTES)):
        return None
    if predicted.dtype != np.uint8 and (predicted.min() < 0 or predicted.max() >= _BYTES):
        predicted = np.where((predicted < 0) | (predicted >= _BYTES), _BYTES - 1, predicted)
    rows, columns = (
        np.ascontiguousarray(each, np.uint8).reshape(1, -1) for each in (truth, predicted)
    )
    counts = np.zeros((_BYTES, _BYTES), dtype=np.int64)
    for start in range(0, rows.size, _EXACT):
        part = [each[:, start : start + _EXACT] for each in (rows, columns)]
        found = cv2.calcHist(part, [0, 1], None, [_BYTES, _BYTES], [0, _BYTES, 0, _BYTES])
        counts += found.astype(np.int64)
    return counts
