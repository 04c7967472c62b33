"""Several images with their label maps on one sheet, to see at a glance whether they fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fmbseg.view.fonts import font_for
from fmbseg.view.overlay import (
    AT_RANDOM,
    INK,
    OPACITY,
    PALE,
    PAPER,
    above,
    blend,
    colours_of,
    fit_text,
    legend,
    note,
    text_size,
    unpainted,
)

Panel = tuple[str, Image.Image, NDArray[np.integer] | None]

CELL = (440, 330)
"""Width and height in pixels that a picture is fitted into."""

_COLUMNS = 3
_MARGIN = 10


def label_sheet(
    panels: Sequence[Panel],
    names: Sequence[str],
    background: int | None = None,
    pale: bool = False,
) -> Image.Image:
    """Pictures coloured by their labels, up to three a row, with one legend below.

    Args:
        panels: at least one; caption, image of W x H pixels, label map [H, W] of class indices
            (values that are no class are left as the image has them) or None.
        names: class names in index order.
        background: index of the class that means "none of the others"; it is left unpainted.
        pale: see `overlay`.

    Returns:
        RGB.

    Raises:
        DataError: a label map has another size than its image, or there are no names.
    """
    colours = colours_of(names)
    columns = min(_COLUMNS, len(panels))
    size = text_size(CELL[0] * columns)
    font = font_for([caption for caption, _, _ in panels], size)
    step = (CELL[0] + _MARGIN, CELL[1] + 2 * size)
    rows = -(-len(panels) // columns)
    width, height = columns * step[0] + _MARGIN, rows * step[1] + _MARGIN
    present: set[int] = set()
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for position, (caption, image, label) in enumerate(panels):
        row, column = divmod(position, columns)
        x, y = _MARGIN + column * step[0], row * step[1]
        draw.text((x, y + size), fit_text(caption, font, CELL[0]), fill=INK, font=font, anchor="lm")
        picture = image
        if label is not None:
            shown = unpainted(label, background, len(names))
            picture = blend(image, shown, colours, PALE if pale else OPACITY)
            present.update(np.unique(label).tolist())
        scale = min(CELL[0] / picture.width, CELL[1] / picture.height)
        fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        sheet.paste(picture.resize(fitted, Image.Resampling.LANCZOS), (x, y + 2 * size))
    entries = [(index, None) for index in sorted(present) if 0 <= index < len(names)]
    key = legend(entries, names, width, background=background)
    return above(sheet, above(note(AT_RANDOM, width), key) if pale else key)
