"""The file of a label map."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from fmbseg.data.labels import UNLABELLED
from fmbseg.data.palette import palette
from fmbseg.errors import DataError
from fmbseg.store.atomic import write_atomically

PREDICTED = ".label.png"
"""What `fmbseg predict` puts behind a picture's name for its label map."""


def save_label(path: Path, label: npt.NDArray[np.uint8]) -> None:
    """Write a label map [H, W] uint8 as an indexed PNG with a palette, atomically."""
    write_atomically(path, label_png(label))


def label_png(label: npt.NDArray[np.uint8]) -> bytes:
    """A label map [H, W] uint8 as an indexed PNG with a palette."""
    image = Image.fromarray(label)
    # The colours of overlays; unlabelled pixels are white.
    image.putpalette(palette(UNLABELLED).tobytes() + b"\xff\xff\xff")
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
