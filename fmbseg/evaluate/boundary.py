"""Boundary IoU (Cheng et al. 2021, arXiv 2103.16562) of label maps: how well edges are met.

For each class, of the masks P (prediction) and G (truth) only the pixels within a distance d of
the mask's own contour are compared: |(G_d & G) & (P_d & P)| / |(G_d & G) | (P_d & P)|. d is 2 % of
the image's diagonal, at least 1 pixel. As with mIoU, pixels are accumulated over the data set.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from fmbseg.data.labels import UNLABELLED
from fmbseg.errors import DataError
from fmbseg.evaluate.metrics import mean_of, percent_iou, require_same_shape

DILATION_RATIO = 0.02
"""d as a share of the image's diagonal, as in the paper's own code."""

_OUTSIDE = 65535


class BoundaryCounts:
    """Pixels of intersection and union of class boundaries, accumulated over a data set.

    Ignored pixels are the same region of no class in both maps (the truth's), so a prediction
    that is right on every scored pixel reaches 100; they are counted nowhere. The edge of the
    image is a contour, as in the paper's code. Predictions outside 0..num_classes-1 are no class.

    Attributes:
        intersection: [K] int64 pixels.
        union: [K] int64 pixels.
    """

    def __init__(self, num_classes: int, ignore_index: int = UNLABELLED) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.intersection: NDArray[np.int64] = np.zeros(num_classes, dtype=np.int64)
        self.union: NDArray[np.int64] = np.zeros(num_classes, dtype=np.int64)

    def update(self, prediction: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Count one image.

        Args:
            prediction: [H, W] class indices; other values are no class.
            target: [H, W] class indices or `ignore_index`.

        Raises:
            DataError: the shapes differ.
        """
        require_same_shape(prediction, target)
        scored = target != self.ignore_index
        no_class = self.num_classes
        truth = np.where(scored, target, no_class)
        known = scored & (prediction >= 0) & (prediction < no_class)
        # A wrong "no class" inside a scored region is another region than the ignored one.
        predicted = np.where(known, prediction, np.where(scored, no_class + 1, no_class))
        distance = boundary_distance(*target.shape)
        of_truth = class_boundaries(truth, distance) & scored
        of_prediction = class_boundaries(predicted, distance) & known
        both = of_truth & of_prediction & (truth == predicted)
        hits, of_t, of_p = (
            np.bincount(labels, minlength=no_class)
            for labels in (truth[both], truth[of_truth], predicted[of_prediction])
        )
        self.intersection += hits
        self.union += of_t + of_p - hits

    def merge(self, other: BoundaryCounts) -> None:
        """Add the counts of other images; raises DataError for another number of classes."""
        if self.num_classes != other.num_classes:
            raise DataError(
                f"cannot merge boundaries of {self.num_classes} and {other.num_classes} classes: "
                "score both with the same vocabulary"
            )
        self.intersection += other.intersection
        self.union += other.union

    def iou(self) -> NDArray[np.float64]:
        """[K] float64 percent; NaN for a class without boundary in truth and prediction."""
        return percent_iou(self.intersection, self.union)

    def miou(self) -> float:
        """Percent, mean over the classes with a union; NaN when nothing was counted."""
        return mean_of(self.iou())


def boundary_distance(height: int, width: int) -> int:
    """D of an image in pixels: 2 % of its diagonal, at least 1."""
    return max(1, round(DILATION_RATIO * math.hypot(height, width)))


def class_boundaries(labels: NDArray[np.int64], distance: int) -> NDArray[np.bool_]:
    """Pixels within `distance` of the contour of their own region, for all classes in one pass.

    Eroding a class's mask `distance` times with a 3 x 3 square leaves the pixels whose square of
    side 2 distance + 1 is all of that class: there the square's minimum and maximum are equal.

    Args:
        labels: [H, W], 0 to 65534.
        distance: pixels, by the larger of the two coordinates' differences.

    Returns:
        [H, W] bool.
    """
    height, width = labels.shape
    padded = np.pad(labels.astype(np.uint16), distance, constant_values=_OUTSIDE)
    square = np.ones((2 * distance + 1, 2 * distance + 1), dtype=np.uint8)
    lowest, highest = cv2.erode(padded, square), cv2.dilate(padded, square)
    inside = slice(distance, distance + height), slice(distance, distance + width)
    edges: NDArray[np.bool_] = lowest[inside] != highest[inside]
    return edges
