"""Composition of classified masks into one label map, and the map's file."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from fmbseg.data.labels import UNLABELLED
from fmbseg.errors import DataError
from fmbseg.store.atomic import write_atomically

Masks = Sequence[npt.NDArray[np.bool_]] | npt.NDArray[np.bool_]


def compose(
    query_masks: Masks,
    query_classes: npt.NDArray[np.int64],
    masks: Masks,
    mask_classes: npt.NDArray[np.int64],
    size: tuple[int, int],
    areas: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None,
) -> npt.NDArray[np.uint8]:
    """Lay the masks of 1.2 over those of 1.1, in each small over large (this project's rule).

    Of masks of one size the later index lies on top. Masks of class 255 are left out.

    Args:
        query_masks: c masks [H, W] bool of 1.1.
        query_classes: [c] their classes.
        masks: M masks [H, W] bool of 1.2.
        mask_classes: [M] their classes.
        size: (height, width) of the image.
        areas: pixels of the query masks and of the masks where they are known, so that masks read
            from a file need not all be in memory.

    Returns:
        [H, W] uint8 class indices, 255 under no mask.
    """
    label = np.full(size, UNLABELLED, dtype=np.uint8)
    known = areas if areas is not None else (_areas(query_masks), _areas(masks))
    layers = ((query_masks, query_classes, known[0]), (masks, mask_classes, known[1]))
    for layer, classes, area in layers:
        for index in np.argsort(-area, kind="stable"):
            if classes[index] != UNLABELLED:
                np.copyto(label, np.uint8(classes[index]), where=layer[index])
    return label


def save_label(path: Path, label: npt.NDArray[np.uint8]) -> None:
    """Write a label map [H, W] uint8 as an indexed PNG with a palette, atomically."""
    write_atomically(path, label_png(label))


def label_png(label: npt.NDArray[np.uint8]) -> bytes:
    """A label map [H, W] uint8 as an indexed PNG with a palette."""
    image = Image.fromarray(label)
    image.putpalette(_PALETTE)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def load_label(path: Path) -> npt.NDArray[np.uint8]:
    """Read a label map: [H, W] uint8 class indices, 255 unlabelled.

    Raises:
        DataError: the file is missing, broken or not an indexed (or grey) PNG.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise DataError(f"{path} is no label map (mode {image.mode}): make it again")
            return np.array(image, dtype=np.uint8)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: run `fmbseg run label`") from error
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"{path} is broken: run `fmbseg run label` again") from error


def _areas(masks: Masks) -> npt.NDArray[np.int64]:
    return np.array([int(mask.sum()) for mask in masks], dtype=np.int64)


def _palette() -> bytes:
    # Hues a golden angle apart keep neighbouring indices apart; 255 is white.
    colours: list[float] = []
    for index in range(UNLABELLED):
        value = 0.95 if index % 2 == 0 else 0.7
        colours += colorsys.hsv_to_rgb(index * 0.61803398875 % 1.0, 0.75, value)
    return bytes(round(255 * part) for part in colours) + b"\xff\xff\xff"


_PALETTE = _palette()
