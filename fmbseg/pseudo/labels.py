"""Files of label maps, and where they lie."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.data.images import read_annotation
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.palette import palette
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError
from fmbseg.store.atomic import write_atomically


def label_folder(vocabularies: Sequence[Vocabulary], words: Vocabulary) -> Path:
    """Where the label maps `<image_id>.png` in one of some vocabularies lie, below the out."""
    return Path("labels") if len(vocabularies) == 1 else Path("labels") / words.name


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
        DataError: the file is missing, or as `read_annotation`.
    """
    try:
        return read_annotation(path)
    except DataError as error:
        raise DataError(f"{error}; run `fmbseg run label` to make it again") from error
