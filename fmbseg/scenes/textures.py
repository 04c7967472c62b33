"""Procedural textures of the stuff classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Rng = np.random.Generator


def texture(name: str, rng: Rng, height: int, width: int) -> Field:
    """A texture, float32 [height, width, 3] RGB in 0..255; deterministic from `rng`'s state."""
    base, pattern = _STUFF[name]
    colour = np.array(base, np.float32) + rng.normal(0, 8, 3).astype(np.float32)
    relief, tint = pattern(rng, height, width)
    field = colour + relief[..., None] * tint
    return np.clip(field, 0, 255)


def _smooth(rng: Rng, height: int, width: int, cells: int) -> Field:
    grid = rng.random((cells, cells), np.float32) - 0.5
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _fine(rng: Rng, height: int, width: int) -> Field:
    return rng.random((height, width), np.float32) - 0.5


def _axes(height: int, width: int) -> tuple[Field, Field]:
    return np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]


Pattern = tuple[Field, Field]
GREY = np.ones(3, np.float32)


def _grass(rng: Rng, h: int, w: int) -> Pattern:
    blades = cv2.blur(_fine(rng, h, w), (1, 3))
    return blades * 95 + _smooth(rng, h, w, 16) * 45, np.array([0.7, 1, 0.5], np.float32)


def _sky(rng: Rng, h: int, w: int) -> Pattern:
    ys, _ = _axes(h, w)
    shade = _smooth(rng, h, w, 4) * 25 + (ys / h - 0.5) * 30
    return shade.astype(np.float32), GREY


def _clouds(rng: Rng, h: int, w: int) -> Pattern:
    puffs = np.clip(_smooth(rng, h, w, 6) + _smooth(rng, h, w, 12) * 0.5, -0.6, 0.2)
    return puffs * 130, np.array([1, 0.65, 0.25], np.float32)


def _sea(rng: Rng, h: int, w: int) -> Pattern:
    ys, _ = _axes(h, w)
    waves = np.sin(ys / rng.uniform(1.4, 2.2) + _smooth(rng, h, w, 6) * 9)
    return waves.astype(np.float32) * 26 + _smooth(rng, h, w, 5) * 20, GREY


def _ground(
    grain: int, relief: int, cells: int, rng: Rng, h: int, w: int, tint: Sequence[float] = (1, 1, 1)
) -> Pattern:
    shade = _fine(rng, h, w) * grain + _smooth(rng, h, w, cells) * relief
    return shade, np.array(tint, np.float32)


def _road(rng: Rng, h: int, w: int) -> Pattern:
    ys, xs = _axes(h, w)
    line = np.abs(xs - w / 2 + (ys - h / 2) * rng.uniform(-0.5, 0.5) + rng.uniform(-20, 20)) < 1.6
    dashes = ((ys + rng.integers(16)) // 8) % 2
    return _fine(rng, h, w) * 24 + (line * dashes).astype(np.float32) * 130, GREY


def _brick(rng: Rng, h: int, w: int) -> Pattern:
    ys, xs = _axes(h, w)
    ys, xs = ys + rng.integers(8), xs + rng.integers(16)
    mortar = ((ys % 8) < 1) | (((xs + (ys // 8 % 2) * 8) % 16) < 1)
    return mortar.astype(np.float32) * 75 + _fine(rng, h, w) * 18, GREY


def _stone(rng: Rng, h: int, w: int) -> Pattern:
    # Cells of random centres: grey stones of their own tone, dark joints between them.
    count = max(6, h * w // 180)
    centres = rng.random((count, 2)).astype(np.float32) * np.array([h, w], np.float32)
    marks = np.ones((h, w), np.uint8)
    # A draw next to 1 is 1 in float32.
    rows = np.minimum(centres[:, 0].astype(int), h - 1)
    columns = np.minimum(centres[:, 1].astype(int), w - 1)
    marks[rows, columns] = 0
    _, cells = cv2.distanceTransformWithLabels(
        marks, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    tones = rng.normal(0, 22, count + 1).astype(np.float32)
    joints = (cv2.Laplacian(cells.astype(np.float32), cv2.CV_32F) != 0).astype(np.float32)
    return tones[np.minimum(cells, count)] - joints * 45, GREY


def _wood(rng: Rng, h: int, w: int) -> Pattern:
    ys, xs = _axes(h, w)
    planks = ((xs + rng.integers(12)) % 12) < 1
    grain = np.sin(ys / 3 + _smooth(rng, h, w, 8) * 8).astype(np.float32)
    return planks.astype(np.float32) * -55 + grain * 13, GREY


def _tile(rng: Rng, h: int, w: int) -> Pattern:
    ys, xs = _axes(h, w)
    ys, xs = ys + rng.integers(12), xs + rng.integers(12)
    joints = ((ys % 12) < 1) | ((xs % 12) < 1)
    checks = ((ys // 12 + xs // 12) % 2) * 30
    return joints.astype(np.float32) * -70 - checks.astype(np.float32), GREY


def _gravel(rng: Rng, h: int, w: int) -> Pattern:
    grid = rng.random((max(2, h // 3), max(2, w // 3)), np.float32)
    pebbles = cv2.resize(grid, (w, h), interpolation=cv2.INTER_LINEAR)
    return np.where(pebbles > 0.45, 55.0, -65.0).astype(np.float32) + pebbles * 30, GREY


def _rug(rng: Rng, h: int, w: int) -> Pattern:
    ys, xs = _axes(h, w)
    diamonds = np.abs((xs + rng.integers(20)) % 20 - 10) + np.abs((ys + rng.integers(20)) % 20 - 10)
    lines = (np.abs(diamonds - 10) < 2).astype(np.float32)
    return lines * 90 + _fine(rng, h, w) * 20, np.array([0.8, 1, 0.6], np.float32)


# The base colour (RGB, 0 to 255) and the pattern of each stuff class.
_STUFF: dict[str, tuple[tuple[int, int, int], Callable[[Rng, int, int], Pattern]]] = {
    "clouds": ((225, 230, 238), _clouds),
    "dirt": ((125, 90, 60), partial(_ground, 22, 45, 9)),
    "tile floor": ((205, 200, 185), _tile),
    "wood floor": ((165, 112, 62), _wood),
    "grass": ((72, 150, 52), _grass),
    "gravel": ((150, 145, 138), _gravel),
    "road": ((88, 88, 94), _road),
    "rug": ((150, 45, 60), _rug),
    "sand": ((226, 200, 140), partial(_ground, 42, 20, 6)),
    "sea": ((30, 82, 160), _sea),
    "sky": ((140, 190, 242), _sky),
    "snow": ((240, 244, 250), partial(_ground, 10, 22, 5, tint=(1, 0.9, 0.6))),
    "brick wall": ((172, 80, 60), _brick),
    "stone wall": ((128, 124, 112), _stone),
}
