"""A label map laid over its image, with a legend of the classes that are present."""

from __future__ import annotations

import io
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fmbseg.data.labels import count_labels, unlabelled
from fmbseg.data.palette import palette
from fmbseg.errors import DataError
from fmbseg.view.fonts import Font, drawable, font_for

MIN_LONG_SIDE = 512
"""Pictures with a smaller long side are enlarged to about this many pixels before drawing."""

INK = (32, 32, 32)
PAPER = (255, 255, 255)
_BAND_PIXELS = 2**21
OPACITY = 0.55
"""Of a class's colour over the image."""
PALE = 0.2
"""The same where the labels are by models that do not know such pictures."""
AT_RANDOM = "at random: the models know drawings alone"
_SWATCH_EMPTY = (170, 170, 170)


def blend(
    image: Image.Image,
    label: NDArray[np.integer],
    colours: NDArray[np.uint8],
    opacity: float = OPACITY,
) -> Image.Image:
    """Colour an image by its label map; small images are enlarged so that regions can be seen.

    Args:
        image: any mode, [H, W] as `label`.
        label: [H, W] integers, class indices; every other value is left as the image has it.
        colours: [K, 3] uint8 RGB.
        opacity: of the colours, 0 to 1; outlines are twice as opaque.

    Returns:
        RGB picture without legend; its size is a whole multiple of the image's. Regions are parted
        by a white line and outlined in their colour.

    Raises:
        DataError: the label map has another size than the image, or is not made of integers.
    """
    label = np.asarray(label)
    if label.dtype.kind not in "iu":
        raise DataError(f"label map must be class indices of an integer dtype, not {label.dtype}")
    if label.shape != (image.height, image.width):
        raise DataError(
            f"label map {list(label.shape)} does not fit the image "
            f"[{image.height}, {image.width}]: give both in the same size"
        )
    # Whole, so that pixels of the label map stay squares.
    factor = max(1, round(MIN_LONG_SIDE / max(image.size)))
    size = (image.width * factor, image.height * factor)
    picture = np.asarray(image.convert("RGB"))
    if factor > 1:
        enlarged = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        picture = np.asarray(enlarged)
        label = label.repeat(factor, axis=0).repeat(factor, axis=1)
    line = max(1, max(picture.shape) // 1000)
    mixed = np.empty_like(picture)
    # In bands with the rows around them that a border reaches: the whole needs ten times as much.
    rows, reach = max(1, _BAND_PIXELS // picture.shape[1]), 3 * line + 1
    for top in range(0, len(picture), rows):
        first = max(0, top - reach)
        band = slice(first, top + rows + reach)
        found = _blended(picture[band], label[band], colours, line, opacity)
        mixed[top : top + rows] = found[top - first :][:rows]
    return Image.fromarray(mixed)


def _blended(
    picture: NDArray[np.uint8],
    label: NDArray[np.integer],
    colours: NDArray[np.uint8],
    line: int,
    opacity: float,
) -> NDArray[np.uint8]:
    """Picture [H, W, 3] and label map [H, W] of one size; lines are `line` pixels wide."""
    coloured = (label >= 0) & (label < len(colours))
    tint = colours[np.where(coloured, label, 0)]
    mixed = picture.copy()
    mixed[coloured] = cv2.addWeighted(picture, 1 - opacity, tint, opacity, 0)[coloured]
    # The outline has the pure colour of the legend, which the blend inside can only resemble.
    outline = _borders(label, 3 * line) & coloured
    strong = min(1.0, 2 * opacity)
    mixed[outline] = cv2.addWeighted(picture, 1 - strong, tint, strong, 0)[outline]
    mixed[_borders(label, line)] = 255
    return mixed


def _borders(label: NDArray[np.integer], reach: int) -> NDArray[np.bool_]:
    """[H, W] bool: pixels that are at most `reach` pixels away from another label."""
    edge: NDArray[np.uint8] = np.zeros(label.shape, dtype=np.uint8)
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    edge[1:, :] |= label[1:, :] != label[:-1, :]
    if reach > 1:
        kernel = np.ones((2 * reach - 1, 2 * reach - 1), dtype=np.uint8)
        edge = np.asarray(cv2.dilate(edge, kernel), dtype=np.uint8)
    return edge.astype(bool)


def area_shares(label: NDArray[np.integer], classes: int) -> list[tuple[int, float]]:
    """(class index, share of the pixels 0 to 1) of the classes present, largest first.

    Pixels of no class (anything outside 0..classes-1) come last, as `unlabelled(classes)`.
    """
    counts = count_labels(label, classes).tolist()
    present = sorted(np.flatnonzero(counts).tolist(), key=lambda index: -counts[index])
    rows = [(index, counts[index] / label.size) for index in present]
    outside = label.size - sum(counts)
    return [*rows, (unlabelled(classes), outside / label.size)] if outside else rows


def overlay(
    image: Image.Image,
    label: NDArray[np.integer],
    names: Sequence[str],
    background: int | None = None,
    pale: bool = False,
) -> Image.Image:
    """The blended picture with a legend below it: colour, class name and area share.

    Args:
        image: any mode, [H, W] as `label`.
        label: [H, W] integers, class indices; every other value is unlabelled.
        names: class names in index order.
        background: index of the class that means "none of the others"; it is left unpainted.
        pale: the labels are at random: the colours are faint, and a line says why.

    Returns:
        RGB; the picture in the upper part (see `blend` for its size), the legend below it, so
        nothing of the picture is covered. Classes are sorted by area, unlabelled pixels last.

    Raises:
        DataError: sizes do not fit, or there are no names.
    """
    opacity = PALE if pale else OPACITY
    shown = unpainted(label, background, len(names))
    picture = blend(image, shown, colours_of(names), opacity)
    # A narrow picture gets a legend wider than itself: class names come first.
    width = max(picture.width, 16 * text_size(picture.width, picture.height))
    rows = area_shares(label, len(names))
    key = legend(rows, names, width, picture.height, background)
    return above(picture, above(note(AT_RANDOM, width, picture.height), key) if pale else key)


def png(picture: Image.Image) -> bytes:
    """The content of its PNG file."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def unpainted(
    label: NDArray[np.integer], background: int | None, classes: int
) -> NDArray[np.integer]:
    """A label map [H, W] of some classes whose background, where there is one, is unlabelled."""
    if background is None:
        return label
    return np.where(label == background, unlabelled(classes), label)


def above(picture: Image.Image, key: Image.Image) -> Image.Image:
    """A picture with a legend, at least as wide, below it; RGB."""
    sheet = Image.new("RGB", (key.width, picture.height + key.height), PAPER)
    sheet.paste(picture, (0, 0))
    sheet.paste(key, (0, picture.height))
    return sheet


def legend(
    rows: Sequence[tuple[int, float | None]],
    names: Sequence[str],
    width: int,
    height: int = 0,
    background: int | None = None,
) -> Image.Image:
    """Entries in as many columns as fit; the text grows with the picture it belongs to.

    Args:
        rows: (class index or `unlabelled(K)`, share of the area or None to print none).
        names: class names in index order.
        width: pixels, of the legend.
        height: pixels, of the picture above it (0: judge the text size by the width alone).
        background: index of a class that is not painted.

    Returns:
        RGB, `width` pixels wide.
    """
    colours = colours_of(names).tolist()
    size = text_size(width, height)
    font = font_for([names[index] for index, _ in rows if index < len(names)], size)
    texts = [_entry(index, share, names, font) for index, share in rows]
    gap, swatch = size // 2, size
    widest = max((font.getlength(text) for text in texts), default=0.0)
    columns = max(1, min(len(texts), int((width - gap) // (swatch + 3 * gap + widest))))
    lines = -(-len(texts) // columns)
    line_height = round(1.5 * size)
    sheet = Image.new("RGB", (width, lines * line_height + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for position, ((index, _), text) in enumerate(zip(rows, texts, strict=True)):
        # Down the columns, so that the largest classes stand first in reading order.
        column, line = divmod(position, lines)
        x, y = gap + column * ((width - gap) // columns), gap // 2 + line * line_height
        box = (x, y + line_height // 6, x + swatch, y + line_height // 6 + swatch)
        if index in (unlabelled(len(names)), background):
            draw.rectangle(box, outline=_SWATCH_EMPTY, width=max(1, size // 10))
        else:
            draw.rectangle(box, fill=tuple(colours[index]), outline=INK)
        room = (width - gap) // columns - swatch - 2 * gap
        draw.text(
            (x + swatch + gap, y + line_height / 2),
            fit_text(text, font, room),
            fill=INK,
            font=font,
            anchor="lm",
        )
    return sheet


def note(text: str, width: int, height: int = 0) -> Image.Image:
    """A line of text on a strip, RGB, `width` pixels wide; `height` as `legend` takes it."""
    size = text_size(width, height)
    strip = Image.new("RGB", (width, round(1.5 * size)), PAPER)
    font = font_for([text], size)
    place = (size // 2, strip.height / 2)
    shown = fit_text(text, font, width - size)
    ImageDraw.Draw(strip).text(place, shown, fill=INK, font=font, anchor="lm")
    return strip


def text_size(width: int, height: int = 0) -> int:
    """Font size in pixels that can be read when the picture is shown on one screen."""
    return max(13, round(max(width, 0.75 * height) / 54))


def fit_text(text: str, font: Font, room: float) -> str:
    """The text, cut with "..." where it is wider than `room` pixels."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text.rstrip() + "..."


def _entry(index: int, share: float | None, names: Sequence[str], font: Font) -> str:
    name = "unlabelled" if index >= len(names) else drawable(names[index], font, f"class {index}")
    if share is None:
        return name
    percent = 100 * share
    return f"{name}  {percent:.0f} %" if percent >= 9.5 else f"{name}  {max(percent, 0.1):.1f} %"


def colours_of(names: Sequence[str]) -> NDArray[np.uint8]:
    """The palette's colours [K, 3] uint8 of K classes; raises DataError where there are none."""
    if not names:
        raise DataError("no class names: a legend needs the names of the label map's classes")
    return palette(len(names))
