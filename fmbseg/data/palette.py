"""The colours of the classes, the same in overlays and in label maps."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from fmbseg.data.labels import UNLABELLED
from fmbseg.errors import DataError


@cache
def _distinct_colours() -> NDArray[np.uint8]:
    """[255, 3] uint8 RGB: every prefix is spread as far in CIELAB as a greedy choice gets it."""
    steps = np.linspace(0, 255, 17).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = cv2.cvtColor((cube[None] / 255.0).astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    # Near-black, near-white and grey look like shadow, sky glare and asphalt under a blend.
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    kept = (lab[:, 0] > 30) & (lab[:, 0] < 92) & (chroma > 25)
    cube, lab = cube[kept], lab[kept]
    chosen = [int(np.argmax(chroma[kept]))]
    nearest = np.full(len(lab), np.inf)
    while len(chosen) < UNLABELLED:
        distance = np.linalg.norm(lab - lab[chosen[-1]], axis=1)
        nearest = np.minimum(nearest, distance)
        chosen.append(int(np.argmax(nearest)))
    return np.asarray(cube[chosen], np.uint8)


def palette(n: int) -> NDArray[np.uint8]:
    """Colours for classes 0..n-1, far apart from one another and fixed: a class keeps its colour.

    >>> palette(3).shape, (palette(2) == palette(3)[:2]).all().item()
    ((3, 3), True)

    Returns:
        [n, 3] uint8 RGB; `palette(m)` is the beginning of `palette(n)` for m < n. There are 255
        colours: of more classes, some have the same.

    Raises:
        DataError: n is below 1.
    """
    if n < 1:
        raise DataError(f"a palette has at least one colour, not {n}: name the classes")
    return _distinct_colours()[np.arange(n) % UNLABELLED]
