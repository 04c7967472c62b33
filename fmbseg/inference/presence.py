"""Which classes are in a picture, by its own similarities: specks of a class are none of it.

Stage 1 asks a picture only for classes that it has detected there (1.1). A map that is decided
patch by patch has no such step: of 171 names some are the best of a few patches somewhere, and each
that is not in the picture at all takes pixels of those that are. Here a class is in a picture if
one connected region of the grid that it wins is large enough; the others are not asked for.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from fmbseg.inference.maps import Similarities


def of_present(similarities: Similarities, least: float) -> Similarities:
    """The similarities of classes that are in the picture.

    Args:
        similarities: of the image.
        least: share of the grid, 0 to 1, that the largest of a class's regions takes; patches that
            touch along a side are of one region. 0: all classes are.

    Returns:
        Those of the classes that are present; where none is, of the one that wins most patches.
    """
    present = present_classes(similarities, least)
    return similarities if present is None else similarities.only(present)


def present_classes(similarities: Similarities, least: float) -> torch.Tensor | None:
    """The classes [n] int64 that `of_present` keeps, ascending; None: all, it leaves none out."""
    if least == 0:
        return None
    winners = _winners(similarities)
    if winners is None:
        return None
    classes, patches = np.unique(winners, return_counts=True)
    present = [
        int(each)
        for each, count in zip(classes, patches, strict=True)
        if count >= least * winners.size and _largest(winners == each) >= least * winners.size
    ]
    return torch.tensor(present or [int(classes[patches.argmax()])])


def _winners(similarities: Similarities) -> np.ndarray[tuple[int, int], np.dtype[np.int64]] | None:
    """[h, w] the most similar class of each patch; None: there are no maps."""
    best: torch.Tensor | None = None
    classes = torch.empty(0)
    for maps in similarities.parts():
        value, index = maps.values.max(dim=0)
        own = maps.classes[index]
        if best is None:
            best, classes = value, own
        else:
            classes = torch.where(value > best, own, classes)
            best = torch.maximum(best, value)
    return None if best is None else classes.cpu().numpy()


def _largest(region: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> int:
    """Patches of the largest connected part of a region [h, w]."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(region.view(np.uint8), connectivity=4)
    return int(stats[1:, cv2.CC_STAT_AREA].max())
