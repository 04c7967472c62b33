"""Label maps as picture files: 8 bits, or 16 where there are more values; VOC's colours."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.export.source import NOTHING, Label


def value_png(label: Label, count: int, *, palette: bool = False) -> bytes:
    """A PNG of values 0..count-1; `NOTHING` becomes 255, or 65535 where 255 is a value.

    Args:
        label: [H, W] values.
        count: values there may be; more than 255: the PNG has 16 bits.
        palette: as an indexed PNG with VOC's colours, where it has 8 bits.
    """
    if count > 255:
        return _png(Image.fromarray(np.where(label == NOTHING, 65535, label).astype(np.uint16)))
    picture = Image.fromarray(np.where(label == NOTHING, 255, label).astype(np.uint8))
    if palette:
        picture.putpalette(voc_colours(256).tobytes())
    return _png(picture)


def colour_png(colours: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of colours [H, W, 3] uint8."""
    return _png(Image.fromarray(colours))


def voc_colours(count: int) -> npt.NDArray[np.uint8]:
    """PASCAL VOC's colour of each index: [count, 3] uint8; of count up to 2^24 all differ.

    Three bits of the index at a time go to red, green and blue, the lowest into the highest bit.
    """
    index = np.arange(count)
    colours = np.zeros((count, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
