"""Masks of an image as one map of regions, and the vote of a region's pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Regions = npt.NDArray[np.int64]


def paint(masks: npt.NDArray[np.bool_]) -> Regions:
    """Lay masks over each other, the smaller on top.

    Args:
        masks: [M, H, W]; of masks of one size the later lies on top.

    Returns:
        [H, W] the number of the uppermost mask, 1 to M; 0 under no mask.
    """
    regions = np.zeros(masks.shape[1:], dtype=np.int64)
    areas = np.array([np.count_nonzero(mask) for mask in masks], dtype=np.int64)
    for index in np.argsort(-areas, kind="stable"):
        regions[masks[index]] = index + 1
    return regions


def vote(labels: npt.NDArray[np.int64], regions: Regions) -> npt.NDArray[np.int64]:
    """Give all pixels of a region the label that most of them have, the lower one of equals.

    The map correction of CorrCLIP (Zhang et al., arXiv 2411.10086).

    Args:
        labels: [H, W], 0 to 255.
        regions: [H, W]; pixels of region 0 keep their labels.
    """
    flat = regions.ravel()
    counts = np.zeros((int(flat.max()) + 1, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (flat, labels.ravel()), 1)
    return np.where(regions > 0, counts.argmax(axis=1)[regions], labels)
