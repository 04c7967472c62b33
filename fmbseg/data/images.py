"""Reading pictures: RGB images and single-channel annotations, broken files named.

The one place where a picture's file is opened. Its content is not trusted: only the formats of
`FORMATS` are tried (Pillow's others run programs, such as Ghostscript, or nest files in files),
only regular files are opened, and sides are looked at before anything is decoded.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from fmbseg.data.formats import FORMATS, what_it_is
from fmbseg.errors import DataError, FmbsegError, may_pass, shown

#: Largest picture, in pixels: `predict` holds it in less than 2 GB, with its models.
MAX_PIXELS = 50_000_000
#: The same where a picture is labelled tile by tile; of more Pillow opens none.
MAX_TILED_PIXELS = 178_000_000
#: Longest side over shortest. Images are resized to a short side: the long one follows.
MAX_ASPECT = 40
#: Largest file, in bytes: `MAX_PIXELS` without any compression, twice.
MAX_BYTES = 2 * 3 * MAX_PIXELS

_ORIENTATION = 0x0112  # EXIF tag
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)
# Grey PNGs of fewer bits come scaled to 0..255: the factor by bits a pixel.
_SCALED = {1: 1, 2: 85, 4: 17}


@contextmanager
def naming_damage(path: Path | str) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into a DataError that names the picture.

    An error of the disk or the network that may pass stays what it is, with the file's name: the
    picture may be sound.
    """
    name = shown(path)
    try:
        yield
    except FmbsegError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist: restore it or remove it from the list") from error
    except PermissionError as error:
        raise DataError(
            f"{name} may not be read ({error.strerror}): give yourself the right to read it"
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(name)) from error
    except MemoryError as error:
        raise DataError(f"{name} needs more memory than there is: make it smaller") from error
    except Exception as error:  # decoders raise anything on damaged data
        if isinstance(error, OSError) and may_pass(error):
            error.filename = error.filename or str(path)
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name} is broken, truncated or no image ({reason}): replace or remove it"
        ) from error


@contextmanager
def open_picture(
    source: Path | bytes,
    name: str | None = None,
    formats: tuple[str, ...] = tuple(FORMATS),
    most: int = MAX_PIXELS,
) -> Iterator[Image.Image]:
    """Open a picture without decoding it: its format is allowed and its sides are within bounds.

    Whatever is raised inside the block is the picture's damage, see `naming_damage`.

    Args:
        source: a file, or the content of one.
        name: what messages call it; None: the file's path.
        formats: Pillow's names of the formats that are tried.
        most: pixels that it may have.

    Raises:
        DataError: the file is missing, no regular file, may not be read, is too large, or holds no
            picture of these formats.
    """
    called = shown(name or (source if isinstance(source, Path) else "the picture"))
    if most > MAX_PIXELS:
        # Pillow's own doubt, which would be told on stderr from 89 megapixels on.
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    with naming_damage(called), _stream(source, called, most) as stream:
        try:
            image = Image.open(stream, formats=formats)
        except UnidentifiedImageError as error:
            stream.seek(0)
            if known := what_it_is(stream.read(4096), formats):
                raise DataError(f"{called} {known}") from error
            raise UnidentifiedImageError("no picture's content") from error
        with image:
            refuse_sides(image.size, called, most)
            if image.format in ("JPEG", "MPO"):
                _refuse_lie(image.size, stream, called)
            yield image


def read_image(
    source: Path | bytes, name: str | None = None, most: int = MAX_PIXELS
) -> Image.Image:
    """Read a picture as RGB, turned upright as its EXIF orientation says.

    Args:
        source: a file, or the content of one.
        name: what messages call it; None: the file's path.
        most: pixels that it may have.

    Raises:
        DataError: as `open_picture`; it is broken or truncated, or has more than 8 bits a channel.
    """
    with open_picture(source, name, most=most) as image:
        refuse_deep(image, name or (source if isinstance(source, Path) else "the picture"))
        image.load()
        turned = _TURNED.get(_orientation(image))
        # Not Pillow's exif_transpose: it also writes the EXIF data anew, which not all bear.
        return (image if turned is None else image.transpose(turned)).convert("RGB")


def to_rgb(image: Image.Image, name: str, most: int = MAX_PIXELS) -> Image.Image:
    """A picture in memory, of at most so many pixels, as RGB.

    Raises:
        DataError: it has more than 8 bits a channel, or sides out of bounds.
    """
    refuse_deep(image, name)
    refuse_sides(image.size, name, most)
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
    with open_picture(path if content is None else content, str(path)) as image:
        refuse_deep(image, path)
        size = image.size
        # JPEG is then decoded at an eighth of its size; still all of its data are read.
        image.draft("L", (1, 1))
        image.load()
        return _upright(size, _orientation(image))


def upright_size(path: Path, most: int = MAX_PIXELS) -> tuple[tuple[int, int], bool]:
    """Size of a picture, of at most so many pixels, turned as its EXIF orientation says.

    Returns:
        `(width, height)` in pixels, and whether the picture is turned although its size does not
        show it.

    Raises:
        DataError: as `open_picture`.
    """
    with open_picture(path, most=most) as image:
        width, height = size = image.size
        orientation = _orientation(image)
        hidden = orientation in _TURNED and (orientation not in _ON_ITS_SIDE or width == height)
        return _upright(size, orientation), hidden


def read_bytes(path: Path) -> bytes:
    """The content of a picture's file.

    Raises:
        DataError: as `open_picture`; the content is not looked at.
    """
    with naming_damage(path), _stream(path, shown(path)) as stream:
        return stream.read()


def read_annotation(path: Path) -> npt.NDArray[np.uint8]:
    """Read an annotation's values as they are stored.

    Returns:
        `[H, W] uint8`; of a palette picture the indices, not the colours; of a grey one of 1, 2 or
        4 bits the stored numbers, not their share of 255.

    Raises:
        DataError: the file is missing or broken, is no PNG whatever its name is, has colours, an
            orientation, or values above 255.
    """
    return read_values(path, 255).astype(np.uint8)


def read_values(path: Path, largest: int, content: bytes | None = None) -> npt.NDArray[np.uint16]:
    """The same `[H, W] uint16`, of 8 or 16 bits; DataError where a value is above `largest`.

    Args:
        path: the file, or what messages call it where its content is given.
        largest: value that is allowed.
        content: of the file; None: it is read.
    """
    name = shown(path)
    content = read_bytes(path) if content is None else content
    with open_picture(content, str(path), formats=("PNG",)) as image:
        if _orientation(image) != 1:
            raise DataError(
                f"{name} has an EXIF orientation: store label maps upright, without one"
            )
        image.load()
        values = np.asarray(image)
        mode = image.mode
    if values.ndim != 2:
        raise DataError(
            f"{name} is a colour picture: expected one channel of class values (8-bit PNG)"
        )
    if values.size and (values.max() > largest or values.min() < 0):
        depth = 8 if largest < 256 else 16
        raise DataError(
            f"{name} holds the value {values.max()}: expected values 0 to {largest} ({depth}-bit)"
        )
    bits = content[24]  # of the header, which comes first
    factor = _SCALED.get(bits, 1) if mode in ("1", "L") else 1
    return values.astype(np.uint16) // np.uint16(factor)


def refuse_deep(image: Image.Image, path: Path | str) -> None:
    """Raise DataError for 16 and 32-bit pictures, which Pillow would clip to white in silence."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        raise DataError(f"{shown(path)} has more than 8 bits a channel: convert it to 8-bit RGB")


def refuse_sides(size: tuple[int, int], name: Path | str, most: int = MAX_PIXELS) -> None:
    """Raise DataError for sides `(width, height)` whose picture would need too much memory."""
    width, height = size
    called = f"{shown(name)} has {width} x {height} px"
    if width < 1 or height < 1:
        raise DataError(f"{called}: replace or remove it")
    if width * height > most:
        raise DataError(_too_large(called, ", ", most))
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DataError(
            f"{called}: one side is more than {MAX_ASPECT} times the other, cut it into pieces"
        )


def _refuse_lie(size: tuple[int, int], stream: BinaryIO, name: str) -> None:
    """Raise DataError for a JPEG whose few bytes cannot hold its pixels: Pillow makes the rest up.

    One bit for each block of 8 x 8 px is the least, and that only where nothing is to be seen.
    """
    position = stream.tell()
    length = stream.seek(0, os.SEEK_END)
    stream.seek(position)
    if size[0] * size[1] > 8 * 64 * (length + 1024):
        raise DataError(
            f"{name} is broken, truncated or no image ({length} bytes for {size[0]} x {size[1]} "
            "px): replace or remove it"
        )


def _too_large(name: str, joint: str = " is too large: ", most: int = MAX_PIXELS) -> str:
    return f"{name}{joint}at most {most // 1_000_000} megapixels are read, make it smaller"


@contextmanager
def _stream(source: Path | bytes, name: str, most: int = MAX_PIXELS) -> Iterator[BinaryIO]:
    """The content of a file, which is regular and not too large, or bytes."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    # A pipe without a writer would be waited for.
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise DataError(f"{name} is no regular file: replace or remove it")
    with os.fdopen(descriptor, "rb") as stream:
        largest = max(MAX_BYTES, 2 * 3 * most)
        if status.st_size > largest:
            raise DataError(
                f"{name} has {status.st_size / 1e6:.0f} MB: at most {largest // 1_000_000} MB "
                "are read, make it smaller"
            )
        yield stream


def _orientation(image: Image.Image) -> int:
    """Its EXIF orientation, 1 to 8; 1 where the EXIF data are damaged: the pixels may be sound."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # anything, as decoders do; damage of the pixels shows when they are read
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation in _ON_ITS_SIDE else size
