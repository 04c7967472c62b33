"""Reading pictures: RGB images and single-channel annotations, broken files named."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from fmbseg.errors import DataError, may_pass

#: File name extensions taken as images, lower case.
IMAGE_EXTENSIONS = ("bmp", "jpeg", "jpg", "png", "tif", "tiff", "webp")

_ORIENTATION = 0x0112  # EXIF tag

# What Pillow raises on damaged files, by decoder.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError)


@contextmanager
def naming_damage(path: Path | str) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into a DataError that names the picture.

    An error of the disk or the network that may pass stays what it is, with the file's name: the
    picture may be sound.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: restore it or remove it from the list") from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and may_pass(error):
            error.filename = error.filename or str(path)
            raise
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} is broken, truncated or no image ({reason}): replace or remove it"
        ) from error


def read_image(source: Path | bytes, name: str | None = None) -> Image.Image:
    """Read a picture as RGB, turned upright as its EXIF orientation says.

    Args:
        source: a file, or the content of one.
        name: what messages call it; None: the file's path.

    Raises:
        DataError: the file is missing, broken, truncated, or has more than 8 bits a channel.
    """
    data = io.BytesIO(source) if isinstance(source, bytes) else source
    shown = name or (source if isinstance(source, Path) else "the picture")
    with naming_damage(shown), Image.open(data) as image:
        refuse_deep(image, shown)
        image.load()
        return ImageOps.exif_transpose(image).convert("RGB")


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A picture in memory as RGB; raises DataError, with its name, for more than 8 bits."""
    refuse_deep(image, name)
    return image.convert("RGB")


def check_image(path: Path, content: bytes | None = None) -> tuple[int, int]:
    """Read all data of a picture, as cheaply as can be.

    Args:
        path: the picture.
        content: of its file; None: it is read.

    Returns:
        `(width, height)` in pixels when upright.

    Raises:
        DataError: as `read_image` does.
    """
    source = path if content is None else io.BytesIO(content)
    with naming_damage(path), Image.open(source) as image:
        refuse_deep(image, path)
        size = upright_size(image)
        # JPEG is then decoded at an eighth of its size; still all of its data are read.
        image.draft("L", (1, 1))
        image.load()
    return size


def read_annotation(path: Path) -> npt.NDArray[np.uint8]:
    """Read an annotation's raw values.

    Returns:
        `[H, W] uint8`; of a palette picture the indices, not the colours.

    Raises:
        DataError: the file is missing or broken, has colours, or values above 255.
    """
    with naming_damage(path), Image.open(path) as image:
        values = np.asarray(image)
    if values.ndim != 2:
        raise DataError(
            f"{path} is a colour picture: expected one channel of class values (8-bit PNG)"
        )
    if values.size and (values.max() > 255 or values.min() < 0):
        raise DataError(f"{path} holds the value {values.max()}: expected values 0 to 255 (8-bit)")
    return values.astype(np.uint8)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """`(width, height)` in pixels once the picture is turned as its EXIF orientation says."""
    width, height = image.size
    on_its_side = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if on_its_side else (width, height)


def refuse_deep(image: Image.Image, path: Path | str) -> None:
    """Raise DataError for 16 and 32-bit pictures, which Pillow would clip to white in silence."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        raise DataError(f"{path} has more than 8 bits a channel: convert it to 8-bit RGB")
