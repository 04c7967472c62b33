"""A region's outline as one polygon whose holes are reached by cuts of no width."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from fmbseg.export.regions import Region

Points = npt.NDArray[np.int64]


def polygon(region: Region) -> Points:
    """The outline [P, 2] of (x, y): centres of the region's border pixels, P at least 3.

    Filled with its border (OpenCV's `fillPoly`), it gives the region. Each hole is entered and
    left where it is nearest to what has been outlined.
    """
    contours, hierarchy = cv2.findContours(
        region.inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    parents = hierarchy[0, :, 3]
    [outer] = [contours[number] for number in np.flatnonzero(parents < 0).tolist()]
    outline: Points = outer[:, 0].astype(np.int64)
    holes = [
        contours[number][:, 0].astype(np.int64) for number in np.flatnonzero(parents >= 0).tolist()
    ]
    while holes:
        tree = cKDTree(outline)
        nearest = [tree.query(hole) for hole in holes]
        number = int(np.argmin([distances.min() for distances, _ in nearest]))
        distances, places = nearest[number]
        start = int(distances.argmin())
        here, hole = int(places[start]), holes.pop(number)
        around = np.concatenate([hole[start:], hole[: start + 1]])
        outline = np.concatenate([outline[: here + 1], around, outline[here:]])
    corners = _corners(outline)
    # Points and lines have an outline too: three points are the least a polygon has.
    while len(corners) < 3:
        corners = np.concatenate([corners, corners[-1:]])
    moved: Points = corners + np.array(region.box[:2])
    return moved


def _corners(outline: Points) -> Points:
    """Without the points between two equal steps."""
    if len(outline) < 3:
        return outline
    before = outline - np.roll(outline, 1, axis=0)
    after = np.roll(outline, -1, axis=0) - outline
    corners: Points = outline[(before != after).any(axis=1)]
    return corners
