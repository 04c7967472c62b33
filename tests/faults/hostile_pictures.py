"""Files under a picture's name that are damaged, odd, or made to do harm."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from fmbseg.data.formats import FORMATS
from tests.data.test_hostile_pictures import (
    LARGE,
    ODD_EXIF,
    chunk,
    claims,
    encoded,
    exif_block,
    png,
    with_exif,
)

#: Makes a file or whatever else at a path.
Make = Callable[[Path], object]
_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def pictures() -> Iterator[tuple[str, str, Make]]:
    """What it is, a name with its suffix, and what makes it; sound ones are among them."""
    for format_, (suffix, *_) in FORMATS.items():
        whole = encoded(format_)
        yield from _damaged(format_, f"x.{suffix}", whole)
        yield f"{format_} under another name", "x.jpg" if format_ != "JPEG" else "x.png", _of(whole)
    for name, (make, _) in LARGE.items():
        yield name, "x.png", _of(make())
    for name, (block, _) in ODD_EXIF.items():
        yield f"EXIF data: {name}", "x.jpg", _of(with_exif(block))
    for number in range(1, 9):
        block = exif_block((0x0112, 3, 1, struct.pack("<HH", number, 0)))
        yield f"EXIF orientation {number}", "x.jpg", _of(with_exif(block))
    yield from ((name, file, _of(content)) for name, file, content in _contents())
    yield from _modes()
    yield from _no_files()


def _of(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def _damaged(format_: str, name: str, whole: bytes) -> Iterator[tuple[str, str, Make]]:
    rng = np.random.default_rng(len(whole))
    for share in (0.02, 0.3, 0.99):
        yield f"{format_}, {share:.0%} of it", name, _of(whole[: max(1, int(share * len(whole)))])
    noisy = bytearray(whole)
    for place in rng.integers(len(whole) // 4, len(whole), 40):
        noisy[place] = int(rng.integers(256))
    yield f"{format_} with noise", name, _of(bytes(noisy))
    head = bytearray(whole)
    for place in rng.integers(4, min(60, len(whole)), 6):
        head[place] ^= 0xFF
    yield f"{format_} with a damaged head", name, _of(bytes(head))
    yield f"{format_} with a megabyte behind it", name, _of(whole + os.urandom(1 << 20))


def _contents() -> Iterator[tuple[str, str, bytes]]:
    yield "nothing", "x.jpg", b""
    yield "zeros", "x.png", bytes(5000)
    yield "noise", "x.jpg", np.random.default_rng(0).bytes(5000)
    yield "EPS under .png", "x.png", _EPS
    yield "EPS under .jpg", "x.jpg", _EPS * 500
    yield "a web page", "x.jpg", b"<!DOCTYPE html><html><body>404</body></html>"
    yield (
        "SVG with an entity",
        "x.png",
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><svg/>',
    )
    yield "HEIC", "x.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)
    yield "a zip archive", "x.png", b"PK\x03\x04" + bytes(100)
    yield "an executable", "x.jpg", b"\x7fELF" + bytes(3000)
    yield "a pickle", "x.png", b"\x80\x04\x95" + bytes(30)
    yield "a script", "x.png", b"#!/bin/sh\ntouch pwned\n"
    yield "XPM", "x.png", b'/* XPM */\nstatic char *x[] = {"1 1 1 1", "a c #000", "a"};'
    yield "PPM under .png", "x.png", b"P6 100000 100000 255\n"
    yield "a GIF of 65535 x 65535", "x.gif", b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(40)
    yield "a JPEG of 60000 x 60000", "x.jpg", claims(60_000)
    yield "a JPEG of no height", "x.jpg", _sides(encoded("JPEG"), 0, 64)
    yield "a PNG of no width", "x.png", png(0, 5, b"")
    yield "a PNG of 2^31 px", "x.png", png(2**31 - 1, 1, b"")
    yield "a PNG whose pixels unpack to 1 GB", "x.png", _bomb(64, 48, 1 << 30)
    yield "a PNG whose profile unpacks to 1 GB", "x.png", _with(b"iCCP", b"p\0\0" + _zeros(1 << 30))
    yield "a PNG whose text unpacks to 1 GB", "x.png", _with(b"zTXt", b"c\0\0" + _zeros(1 << 30))
    yield "a PNG with 20,000 texts", "x.png", _with(b"tEXt", b"k\0v", 20_000)
    yield "a PNG with a text of 10 MB", "x.png", _with(b"tEXt", b"k\0" + b"v" * 10_000_000)
    yield "a PNG cut in its checksum", "x.png", encoded("PNG")[:-2]
    yield "a PNG of 16 bits", "x.png", png(8, 8, (b"\0" + bytes(16)) * 8, bits=16)
    yield "a PNG of an unknown colour type", "x.png", png(8, 8, bytes(72), kind=5)
    yield "an animated GIF", "x.gif", _animated("GIF")
    yield "an animated WebP", "x.webp", _animated("WEBP")
    yield "an animated PNG", "x.png", _animated("PNG")
    yield "a TIFF of pages", "x.tif", _animated("TIFF")
    yield "a TIFF whose directory is its own next", "x.tif", _tiff_loop()
    yield "a TIFF with 2^32 strips", "x.tif", _tiff((273, 4, 2**32 - 1, 8))
    yield "a TIFF of 100000 x 100000", "x.tif", _tiff((256, 4, 1, 100_000), (257, 4, 1, 100_000))
    yield "a BMP of negative height", "x.bmp", _bmp(64, -48)
    yield "a BMP of 2^31 px", "x.bmp", _bmp(2**31 - 1, 2**31 - 1)
    yield "1 x 1 px", "x.png", encoded("PNG", (1, 1))
    yield "2 x 2 px", "x.jpg", encoded("JPEG", (2, 2))
    yield "40 x 1 px", "x.png", encoded("PNG", (40, 1))
    yield "1 x 20000 px", "x.png", encoded("PNG", (1, 20_000))
    yield "4000 x 3000 px", "x.jpg", encoded("JPEG", (4000, 3000))


def _modes() -> Iterator[tuple[str, str, Make]]:
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield f"PNG of mode {mode}", "x.png", lambda path, mode=mode: _save(path, mode, "PNG")
    yield "PNG of a palette with alpha", "x.png", _translucent
    for mode in ("CMYK", "L"):
        yield f"JPEG of mode {mode}", "x.jpg", lambda path, mode=mode: _save(path, mode, "JPEG")
    for mode in ("F", "CMYK", "LAB", "YCbCr"):
        yield f"TIFF of mode {mode}", "x.tif", lambda path, mode=mode: _save(path, mode, "TIFF")


def _no_files() -> Iterator[tuple[str, str, Make]]:
    yield "a pipe", "x.jpg", os.mkfifo
    yield "a folder", "x.png", _folder
    yield "a link to a device", "x.png", lambda path: path.symlink_to("/dev/zero")
    yield "a link to itself", "x.png", lambda path: path.symlink_to(path)
    yield "a link to nothing", "x.png", lambda path: path.symlink_to(path.parent / "nowhere")
    yield "a link to the folder", "x", lambda path: path.symlink_to(path.parent)
    yield "100 GB of a hole", "x.bmp", _hole
    sound = _of(encoded("PNG"))
    for what, name in {
        "of 251 bytes": "a" * 247 + ".png",
        "of 255 bytes": "é" * 125 + "a.png",
        "with a line break": "a\nb.png",
        "with an escape": "\x1b[31ma.png",
        "that turns the line": "a\u202egnp.png",
        "of spaces": "   .png",
        "like an option": "--out.png",
        "like a date": "2024-11-27.png",
        "of an emoji": "👨‍👩‍👧.png",
        "with dots": "a.b..c.png",
        "in capitals": "A.PNG",
        "of a shell": "$(touch pwned);`id`.png",
        "of a template": "{0.__class__}%s%n.png",
    }.items():
        yield f"a name {what}", name, sound


def _folder(path: Path) -> None:
    """Named as a picture is, with one in it, which is to be done."""
    path.mkdir()
    (path / "y.png").write_bytes(encoded("PNG"))


def _hole(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(10**11)


def not_utf_8(folder: Path) -> None:
    """A picture whose name is no UTF-8."""
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as stream:
        stream.write(encoded("PNG"))


def _save(path: Path, mode: str, format_: str) -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64), dtype=np.uint8))
    picture = Image.new(mode, grey.size) if mode == "LAB" else grey.convert(mode)
    picture.save(path, format_)


def _translucent(path: Path) -> None:
    picture = Image.open(io.BytesIO(encoded("PNG"))).convert("P")
    picture.save(path, transparency=bytes(range(256)))


def _sides(data: bytes, height: int, width: int) -> bytes:
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def _zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def _bomb(width: int, height: int, size: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", _zeros(size)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _with(kind: bytes, data: bytes, count: int = 1) -> bytes:
    whole = encoded("PNG")
    at = whole.index(b"IDAT") - 4
    return whole[:at] + chunk(kind, data) * count + whole[at:]


def _animated(format_: str) -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (64, 48), (number, 0, 0)) for number in range(30)]
    frames[0].save(stream, format_, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def _tiff(*entries: tuple[int, int, int, int]) -> bytes:
    rows = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II" + struct.pack("<HIH", 42, 8, len(entries)) + rows + bytes(4)


def _tiff_loop() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "TIFF")
    data = bytearray(stream.getvalue())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    assert TiffImagePlugin.PREFIXES
    return bytes(data)


def _bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head + bytes(64 * 48 * 3)
