"""Drawings of named shapes, as truth and as a picture."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Names = NDArray[np.object_]  # [H, W], the name of what was drawn; "": nothing


@dataclass
class Sample:
    """A drawing: its name, what is where, and its picture."""

    stem: str
    names: Names
    picture: Image.Image


def drawn(stem: str, size: tuple[int, int], names: Sequence[str]) -> Sample:
    """A drawing of `size` (width, height); each name lies over those before it."""
    rng = np.random.default_rng(zlib.crc32(stem.encode()))
    width, height = size
    canvas = Image.new("L", size, 0)
    draw = ImageDraw.Draw(canvas)
    for number, _ in enumerate(names, start=1):
        x, y = int(rng.integers(-8, width - 12)), int(rng.integers(-8, height - 12))
        box = (x, y, x + int(rng.integers(12, width)), y + int(rng.integers(12, height)))
        (draw.ellipse if number % 2 else draw.rectangle)(box, fill=number)
    where = np.array(["", *names], dtype=object)[np.asarray(canvas)]
    return Sample(stem, where, picture(where, rng))


def picture(names: Names, rng: np.random.Generator) -> Image.Image:
    """Shaded areas, one colour a name, with soft edges."""
    height, width = names.shape
    pixels = np.zeros((height, width, 3))
    for name in sorted(set(names.ravel())):
        pixels[names == name] = rng.integers(40, 256, 3)
    shade = np.linspace(0.6, 1.0, 8).repeat(width // 8 + 1)[:width]
    soft = Image.fromarray((pixels * shade[None, :, None]).astype(np.uint8))
    return soft.filter(ImageFilter.BoxBlur(1))


def encoded(names: Names, values: Mapping[str, int], other: int) -> NDArray[np.uint8]:
    """The value of each pixel; `other` where nothing was drawn, or what has no value."""
    result = np.full(names.shape, other, dtype=np.uint8)
    for name, value in values.items():
        result[names == name] = value
    return result


def count(samples: Sequence[Sample], meaning: Callable[[str], str]) -> dict[str, Any]:
    """An entry of histograms.json: pixels by class name, as the benchmark scores them."""
    pixels = Counter(meaning(name) for sample in samples for name in sample.names.ravel())
    return {"files": len(samples), "pixels": dict(sorted(pixels.items()))}


def scored(names: Sequence[str], other: str = "ignored") -> Callable[[str], str]:
    return lambda name: name if name in names else other
