"""Files of label maps, and where they lie."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fmbseg.data.images import read_values
from fmbseg.data.labels import UNLABELLED, Label, as_label, unlabelled
from fmbseg.data.palette import palette
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError
from fmbseg.pseudo.packs import label_source
from fmbseg.store.atomic import write_atomically


def label_folder(vocabularies: Sequence[Vocabulary], words: Vocabulary) -> Path:
    """Where the label maps `<image_id>.png` in one of some vocabularies lie, below the out."""
    return Path("labels") if len(vocabularies) == 1 else Path("labels") / words.name


def save_label(path: Path, label: Label) -> None:
    """Write a label map [H, W], see `label_png`, atomically."""
    write_atomically(path, label_png(label))


def label_png(label: Label) -> bytes:
    """A label map [H, W] as a PNG: uint8 indexed with a palette, uint16 of 16 bits."""
    image = Image.fromarray(label)
    if label.dtype == np.uint8:
        # The colours of overlays; unlabelled pixels are white.
        image.putpalette(palette(UNLABELLED).tobytes() + b"\xff\xff\xff")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def load_label(path: Path, classes: int = UNLABELLED) -> Label:
    """Read a label map: [H, W] class indices, uint8 and 255 for no label.

    Args:
        path: the file; it may be packed with others, see `fmbseg.pseudo.packs`.
        classes: how many there are; of more than 255 it is uint16, and 65535 means no label.

    Raises:
        DataError: the file is missing, or as `read_values`.
    """
    source = label_source(path)
    content = source if isinstance(source, bytes) else None
    try:
        return as_label(read_values(path, unlabelled(classes), content), classes)
    except DataError as error:
        raise DataError(f"{error}; run `fmbseg run label` to make it again") from error
