"""Boundary IoU against a loop over classes with distances by OpenCV, and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fmbseg.errors import DataError
from fmbseg.evaluate.boundary import BoundaryCounts, boundary_distance, class_boundaries

Labels = NDArray[np.int64]


def boundary_of_mask(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Pixels of a mask whose nearest pixel outside (the image's edge is outside) is that near.

    DIST_C counts the larger of the two coordinates' differences; a neighbour is at distance 1.
    """
    padded = np.pad(mask.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_C, 3)[1:-1, 1:-1]
    return mask & (depth <= distance)


def reference(pairs: list[tuple[Labels, Labels]], classes: int, ignore: int = 255) -> list[float]:
    result = []
    for k in range(classes):
        intersection = union = 0
        for prediction, target in pairs:
            scored = target != ignore
            d = boundary_distance(*target.shape)
            g = boundary_of_mask((target == k) & scored, d)
            p = boundary_of_mask((prediction == k) & scored, d)
            intersection += int((g & p).sum())
            union += int((g | p).sum())
        result.append(100 * intersection / union if union else math.nan)
    return result


def blobs(seed: int, classes: int, size: tuple[int, int]) -> Labels:
    """Regions of several pixels, as real label maps have them."""
    coarse = np.random.default_rng(seed).integers(0, classes, (9, 7), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST)
    return np.asarray(image).astype(np.int64)


def pairs(classes: int) -> list[tuple[Labels, Labels]]:
    found = []
    for seed, size in enumerate(((120, 90), (61, 203), (7, 5))):
        target = blobs(seed, classes, size)
        prediction = np.where(blobs(seed + 9, 4, size) > 0, np.roll(target, 3, axis=1), 255)
        prediction[blobs(seed + 5, 6, size) == 0] = -1
        target[blobs(seed + 3, 8, size) == 0] = 255
        found.append((prediction, target))
    return found


@pytest.mark.parametrize("classes", [1, 3, 21, 171])
def test_equals_a_loop_with_opencvs_distance(classes: int) -> None:
    counts = BoundaryCounts(classes)
    for prediction, target in pairs(classes):
        counts.update(prediction, target)
    expected = reference(pairs(classes), classes)
    np.testing.assert_allclose(counts.iou(), expected, rtol=0, atol=1e-9)
    assert counts.miou() == pytest.approx(np.nanmean(expected), abs=1e-9)


def test_equals_the_loop_on_real_labels(samples: Path) -> None:
    paths = sorted((samples / "camvid" / "valannot").glob("*.png"))[:3]
    maps = [np.asarray(Image.open(path)).astype(np.int64) for path in paths]
    neighbours = list(zip(maps[1:], maps[:-1], strict=True))
    counts = BoundaryCounts(11, ignore_index=11)
    for prediction, target in neighbours:
        counts.update(prediction, target)
    expected = reference(neighbours, 11, ignore=11)
    np.testing.assert_allclose(counts.iou(), expected, rtol=0, atol=1e-9)


def test_the_boundary_of_a_square_by_hand() -> None:
    labels = np.zeros((20, 20), dtype=np.int64)
    labels[5:12, 5:12] = 1
    edges = class_boundaries(labels, 2)
    # 7 x 7 with a ring of 2 pixels taken off leaves 3 x 3.
    assert edges[5:12, 5:12].sum() == 49 - 9
    assert not edges[7:10, 7:10].any()
    # Of the rest: two pixels along the image's edge and two around the square.
    assert edges[labels == 0].sum() == (400 - 16 * 16) + (11 * 11 - 49)


def test_distance_is_two_percent_of_the_diagonal() -> None:
    assert boundary_distance(300, 400) == 10
    assert boundary_distance(1024, 2048) == 46
    assert boundary_distance(3, 4) == 1


def test_right_on_every_scored_pixel_is_100() -> None:
    target = blobs(1, 5, (80, 80))
    target[20:30] = 255
    prediction = np.where(target == 255, 4, target)
    counts = BoundaryCounts(5)
    counts.update(prediction, target)
    assert set(counts.iou()) == {100.0}


def test_a_shifted_edge_costs_more_than_in_iou() -> None:
    target = np.zeros((100, 100), dtype=np.int64)
    target[:, 50:] = 1
    prediction = np.zeros_like(target)
    prediction[:, 52:] = 1
    counts = BoundaryCounts(2)
    counts.update(prediction, target)
    assert counts.miou() < 85 < 100 * 48 / 50


def test_merging_and_mistakes() -> None:
    whole, first, second = (BoundaryCounts(21) for _ in range(3))
    for index, (prediction, target) in enumerate(pairs(21)):
        whole.update(prediction, target)
        (first if index else second).update(prediction, target)
    first.merge(second)
    assert (first.intersection == whole.intersection).all()
    assert (first.union == whole.union).all()
    with pytest.raises(DataError, match="merge"):
        whole.merge(BoundaryCounts(20))
    with pytest.raises(DataError, match="shape"):
        whole.update(np.zeros((2, 3), np.int64), np.zeros((3, 2), np.int64))
    assert math.isnan(BoundaryCounts(3).miou())
