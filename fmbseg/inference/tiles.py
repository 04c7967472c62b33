"""Pictures of any size at their own resolution: overlapping tiles, decided band by band.

Each tile is asked as a picture of its own, and where tiles overlap their similarities are averaged,
with weights that fall to nothing at a tile's edge. What is held at once is three rows of tiles and
one band of rows of the picture, never the similarities of all its pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fmbseg.config import InferenceSection
from fmbseg.data.labels import Label, as_label
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.data.windows import sliding_windows
from fmbseg.errors import ConfigError
from fmbseg.inference.decision import confidence, decide
from fmbseg.inference.maps import MANY_MAPS, Maps, Similarities, upsample
from fmbseg.inference.presence import present_classes

LEAST_SIDE = 32
# Similarities held at once, of a row of tiles: 512 MB in float32; and of a band: 64 MB.
_ROW_ELEMENTS = 1 << 27
_BAND_ELEMENTS = 1 << 24

Compare = Callable[[Sequence[Image.Image]], Sequence[Similarities]]


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut.

    Attributes:
        side: of a tile, pixels of the picture.
        overlap: of neighbouring tiles, pixels; the last ones of a line overlap more.

    Raises:
        ConfigError: the side is below 32 px, or the overlap is more than half of it.
    """

    side: int
    overlap: int

    def __post_init__(self) -> None:
        if self.side < LEAST_SIDE:
            raise ConfigError(f"tiles of {self.side} px: give at least {LEAST_SIDE}")
        if not 0 <= self.overlap <= self.side // 2:
            raise ConfigError(
                f"tiles of {self.side} px that overlap by {self.overlap}: give 0 to "
                f"{self.side // 2} px"
            )

    @classmethod
    def of(cls, side: int) -> Tiling:
        """Tiles that overlap by a quarter."""
        return cls(side, side // 4)


@dataclass(frozen=True)
class Tiled:
    """What is said of a picture of H x W pixels.

    Attributes:
        label: [H, W] class indices, uint8 or of more than 255 classes uint16; the vocabulary's
            `unlabelled` where there is no label.
        confidence: [H, W] float32, 0 to 1, of each label; see `decision.confidence`.
    """

    label: Label
    confidence: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Line:
    """The tiles along one axis of a picture.

    Attributes:
        starts: their first pixels, ascending.
        side: of each, pixels.
        weights: [T, side] float32: how much each pixel of a tile counts. Of all tiles that hold a
            pixel they add up to 1.
    """

    starts: tuple[int, ...]
    side: int
    weights: Tensor


def line_of_tiles(length: int, tiling: Tiling) -> Line:
    """The tiles of a line of pixels: weights rise evenly over the overlap, and stay at its ends."""
    places = sliding_windows(length, 1, tiling.side, tiling.side - tiling.overlap)
    starts = tuple(start for start, _ in places)
    side = min(tiling.side, length)
    rise = (np.arange(side) + 0.5) / max(1, tiling.overlap)
    weights = np.minimum(1, np.minimum(rise, rise[::-1]))
    raw = np.tile(weights, (len(starts), 1))
    # Beyond the picture's ends there is no other tile.
    raw[0, : side // 2] = 1
    raw[-1, side - side // 2 :] = 1
    total = np.zeros(length)
    for start, each in zip(starts, raw, strict=True):
        total[start : start + side] += each
    shares = [each / total[start : start + side] for start, each in zip(starts, raw, strict=True)]
    return Line(starts, side, torch.from_numpy(np.stack(shares).astype(np.float32)))


def segment_tiles(
    image: Image.Image,
    tiling: Tiling,
    compare: Compare,
    words: Vocabulary,
    section: InferenceSection,
) -> Tiled:
    """Label a picture tile by tile.

    A picture that one tile covers gets what it gets without tiles, to the bit.

    `section.min_region` is the share of a tile: a class is asked for in a tile if a region of it is
    large enough there or in one of the eight tiles around it.

    Args:
        image: RGB.
        tiling: how it is cut.
        compare: tiles of one size -> their similarities, all alike in their classes.
        words: the vocabulary.
        section: see `decide`.

    Raises:
        ConfigError: there are more classes than similarities are held of at once.
    """
    return _Tiles(image, tiling, compare, words, section).run()


class _Tiles:
    def __init__(
        self,
        image: Image.Image,
        tiling: Tiling,
        compare: Compare,
        words: Vocabulary,
        section: InferenceSection,
    ) -> None:
        self._image, self._compare = image, compare
        self._words, self._section = words, section
        self._down = line_of_tiles(image.height, tiling)
        self._across = line_of_tiles(image.width, tiling)
        # Of rows of tiles by their number: the similarities of those that are still averaged, and
        # which classes are present in each tile.
        self._maps: dict[int, list[Maps]] = {}
        self._present: dict[int, list[Tensor | None]] = {}

    def run(self) -> Tiled:
        size = self._image.height, self._image.width
        label = as_label(np.zeros(size, dtype=np.uint8), len(self._words))
        sure = np.zeros(size, dtype=np.float32)
        for rows, maps in self._bands():
            shape = rows.stop - rows.start, size[1]
            decision = decide(maps, shape, self._words, self._section)
            label[rows] = as_label(decision.labels, len(self._words))
            sure[rows] = confidence(maps, decision, self._section)
        return Tiled(label, sure)

    def _bands(self) -> Iterator[tuple[slice, Maps]]:
        """Bands of rows of the picture, and the similarities [K, rows, W] there."""
        starts = (*self._down.starts, self._image.height)
        for number, start in enumerate(self._down.starts):
            # One row more than is averaged: what is present there is asked for here, too.
            for coming in (number, number + 1):
                if coming < len(self._down.starts) and coming not in self._present:
                    self._embed(coming)
            over = [each for each in self._maps if starts[each] + self._down.side <= start]
            for each in over:
                del self._maps[each]
            asked = {each: self._asked(each) for each in self._maps if each <= number}
            yield from self._averaged(start, starts[number + 1], asked)

    def _embed(self, number: int) -> None:
        """Compare a row of tiles with the words."""
        top, side, width = self._down.starts[number], self._down.side, self._across.side
        tiles = [
            self._image.crop((left, top, left + width, top + side)) for left in self._across.starts
        ]
        found = []
        for each in self._compare(tiles):
            if not isinstance(each, Maps) or not _fits(each.values.shape, len(tiles)):
                raise ConfigError(
                    f"{len(self._words)} classes in {len(tiles)} tiles a row are more than memory "
                    "should hold: name fewer classes, or give larger tiles"
                )
            found.append(each)
        least = self._section.min_region
        self._maps[number] = found
        self._present[number] = [present_classes(each, least) for each in found]

    def _asked(self, number: int) -> list[Maps]:
        """The similarities of a row's tiles, without the classes that are nowhere near."""
        if self._section.min_region == 0:
            return self._maps[number]
        rows = [self._present.get(near, []) for near in (number - 1, number, number + 1)]
        found = []
        for column, maps in enumerate(self._maps[number]):
            columns = slice(max(0, column - 1), column + 2)
            near = [each for row in rows for each in row[columns] if each is not None]
            found.append(
                maps.only(torch.from_numpy(np.unique(torch.cat(near).numpy()))) if near else maps
            )
        return found

    def _averaged(
        self, start: int, stop: int, rows: dict[int, list[Maps]]
    ) -> Iterator[tuple[slice, Maps]]:
        classes = next(iter(rows.values()))[0].classes
        width = self._image.width
        step = max(1, _BAND_ELEMENTS // (len(classes) * width))
        for first in range(start, stop, step):
            band = slice(first, min(first + step, stop))
            total = classes.new_zeros((len(classes), band.stop - first, width), dtype=torch.float32)
            for number, maps in rows.items():
                self._add(total, band, number, maps)
            yield band, Maps(total, classes)

    def _add(self, total: Tensor, band: slice, number: int, maps: Sequence[Maps]) -> None:
        """Add what a row of tiles says of the band [K, rows, W], weighed."""
        top, height = self._down.starts[number], self._down.side
        inside = slice(max(band.start - top, 0), min(band.stop - top, height))
        if inside.start >= inside.stop:
            return
        width = self._across.side
        place = slice(inside.start + top - band.start, inside.stop + top - band.start)
        down = self._down.weights[number, inside].to(total.device)
        across = self._across.weights.to(total.device)
        for left, weights, each in zip(self._across.starts, across, maps, strict=True):
            scores = upsample(each.values, (height, width), inside)
            scores.mul_(down[:, None] * weights)
            total[:, place, left : left + width] += scores


def _fits(shape: torch.Size, tiles: int) -> bool:
    """Whether similarities [K, h, w] of each tile of a row may be held."""
    return shape[0] <= MANY_MAPS and shape.numel() * tiles <= _ROW_ELEMENTS
