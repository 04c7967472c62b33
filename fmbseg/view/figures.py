"""One image on one sheet: the image, its truth, both parts of stage 1, and the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fmbseg.errors import DataError
from fmbseg.pseudo.labels import compose
from fmbseg.view.overlay import blend, colours_for, fit_text, legend, text_size

if TYPE_CHECKING:  # torch is not needed to draw
    from fmbseg.pseudo.pipeline import PseudoLabel

PANEL = 480
"""Long side of the picture in each panel, pixels."""

_COLUMNS = 3
_MARGIN = 10
_PAPER = (255, 255, 255)
_INK = (32, 32, 32)
_STAR = (0, 200, 60)


@dataclass(frozen=True)
class _Panel:
    """A caption, a label map [H, W] to lay over the image (None: the image alone), and points."""

    caption: str
    label: NDArray[np.integer] | None = None
    points: NDArray[np.floating] | None = None


def stage_figure(
    image: Image.Image,
    names: Sequence[str],
    *,
    truth: NDArray[np.integer] | None = None,
    pseudo: PseudoLabel | None = None,
    result: NDArray[np.integer] | None = None,
    colours: NDArray[np.uint8] | None = None,
) -> Image.Image:
    """A sheet of panels with one legend; what is not given is left out.

    Args:
        image: W x H pixels.
        names: class names in index order.
        truth: [H, W] integers, class indices, 255 ignored.
        pseudo: stage 1's finds; gives the panels of 1.1 (query points as green stars on the chosen
            masks), 1.2 (automatic masks in the colour of their class) and the label map of both.
        result: [H, W] integers, the segmentation.
        colours: [K, 3] uint8 RGB, `palette(len(names))` when left out.

    Returns:
        RGB, up to three panels a row, a caption above each and the legend of all classes below.

    Raises:
        DataError: a label map has another size than the image, or there are no names.
    """
    colours = colours_for(names, colours)
    panels = _panels(image, truth, pseudo, result)
    pictures = [_draw(panel, image, colours) for panel in panels]
    width, height = pictures[0].size
    columns = 2 if len(panels) == 4 else min(_COLUMNS, len(panels))
    size = text_size(width * columns)
    font = ImageFont.load_default(size=size)
    rows = -(-len(panels) // columns)
    head = 2 * size
    grid = (columns * (width + _MARGIN) + _MARGIN, rows * (head + height) + _MARGIN)
    key = _key(panels, names, colours, grid[0])
    sheet = Image.new("RGB", (grid[0], grid[1] + key.height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
        row, column = divmod(index, columns)
        x, y = _MARGIN + column * (width + _MARGIN), row * (head + height)
        caption = fit_text(panel.caption, font, width)
        draw.text((x, y + head / 2), caption, fill=_INK, font=font, anchor="lm")
        sheet.paste(picture, (x, y + head))
    sheet.paste(key, (0, grid[1]))
    return sheet


def _panels(
    image: Image.Image,
    truth: NDArray[np.integer] | None,
    pseudo: PseudoLabel | None,
    result: NDArray[np.integer] | None,
) -> list[_Panel]:
    panels = [_Panel("image")]
    if truth is not None:
        panels.append(_Panel("ground truth", truth))
    if pseudo is not None:
        size = (image.height, image.width)
        classes = pseudo.detections.classes
        none = np.zeros(0, dtype=np.int64)
        queried = compose(pseudo.query_masks, classes, [], none, size)
        automatic = compose([], none, pseudo.masks, pseudo.mask_classes, size)
        found = f"1.1 query points and masks ({len(classes)} classes)"
        panels += [
            _Panel(found, queried, pseudo.points.reshape(-1, 2)),
            _Panel(f"1.2 automatic masks ({len(pseudo.masks)})", automatic),
            _Panel("pseudo label", pseudo.label),
        ]
    if result is not None:
        panels.append(_Panel("result", result))
    for panel in panels:
        if panel.label is not None and panel.label.shape != (image.height, image.width):
            raise DataError(
                f"{panel.caption} {list(panel.label.shape)} does not fit the image "
                f"[{image.height}, {image.width}]: give both in the same size"
            )
    return panels


def _draw(panel: _Panel, image: Image.Image, colours: NDArray[np.uint8]) -> Image.Image:
    scale = PANEL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    picture = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    if panel.label is not None:
        # Pixel centres, so that a label keeps its place; a label map is never interpolated.
        rows = ((np.arange(size[1]) + 0.5) * image.height / size[1]).astype(int)
        columns = ((np.arange(size[0]) + 0.5) * image.width / size[0]).astype(int)
        picture = blend(picture, np.asarray(panel.label)[rows][:, columns], colours)
    if panel.points is not None:
        draw = ImageDraw.Draw(picture)
        for x, y in panel.points.tolist():
            place = (x * size[0] / image.width, y * size[1] / image.height)
            draw.polygon(_star(*place, radius=PANEL / 50), fill=_STAR, outline=_PAPER)
    return picture


def _star(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    corners = []
    for corner in range(10):
        angle = math.pi * (corner / 5 - 0.5)
        length = radius if corner % 2 == 0 else 0.45 * radius
        corners.append((x + length * math.cos(angle), y + length * math.sin(angle)))
    return corners


def _key(
    panels: Sequence[_Panel], names: Sequence[str], colours: NDArray[np.uint8], width: int
) -> Image.Image:
    present: set[int] = set()
    for panel in panels:
        if panel.label is not None:
            present.update(np.unique(panel.label).tolist())
    rows = [(index, None) for index in sorted(present) if 0 <= index < len(names)]
    return legend(rows, names, colours, width)
