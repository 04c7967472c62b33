"""Pictures that are damaged, or made to do harm: one line each, soon, and with little memory."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg.data import load_dataset
from fmbseg.data.images import MAX_ASPECT, check_image, read_annotation, read_image, upright_size
from fmbseg.errors import DataError, shown

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # of what it repairs by itself


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, bits: int = 8, kind: int = 0) -> bytes:
    """A PNG whose content need not be what its header says."""
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(format: str, size: tuple[int, int] = (64, 48)) -> bytes:
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format)
    return stream.getvalue()


def exif_block(*entries: tuple[int, int, int, bytes], extra: bytes = b"") -> bytes:
    rows = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"II" + struct.pack("<HIH", 42, 8, len(entries)) + rows + struct.pack("<I", 0) + extra


def with_exif(block: bytes) -> bytes:
    data, segment = encoded("JPEG"), b"Exif\0\0" + block
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


TURNED = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
SIGNED = (0x011A, 10, 1, struct.pack("<I", 8 + 2 + 2 * 12 + 4))
ODD_EXIF = {
    "a rational that cannot be written": (
        exif_block(TURNED, SIGNED, extra=struct.pack("<ii", -1, 0)),
        True,
    ),
    "nothing": (b"", False),
    "cut off": (exif_block(TURNED)[:12], False),
    "an orientation of 9": (exif_block((0x0112, 3, 1, struct.pack("<HH", 9, 0))), False),
    "an orientation in words": (exif_block((0x0112, 2, 4, b"six\0")), False),
    "two orientations": (exif_block((0x0112, 3, 2, struct.pack("<HH", 6, 6))), False),
    "a directory in itself": (exif_block((0x8769, 4, 1, struct.pack("<I", 8)), TURNED), True),
    "an offset far away": (exif_block((0x010F, 2, 99, struct.pack("<I", 2**31)), TURNED), True),
}


@pytest.mark.parametrize("case", ODD_EXIF)
def test_odd_exif_data_leave_the_pixels_as_they_are(case: str, tmp_path: Path) -> None:
    block, turned = ODD_EXIF[case]
    path = tmp_path / "a.jpg"
    path.write_bytes(with_exif(block))
    image = read_image(path)
    assert image.size == check_image(path) == upright_size(path)[0]
    if turned:
        assert image.size == (48, 64)
    elif "orientation" in case:
        assert image.size in ((64, 48), (48, 64))
    else:
        assert image.size == (64, 48)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (bytes(500), "holds nothing but zeros"),
        (b"hello", r"is broken, truncated or no image \(no picture's content\)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"is PostScript \(EPS\)"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\xef\xbb\xbf<svg xmlns='x'/>", "is SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is HEIC, which is not read: convert it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "is macOS's own file"),
    ],
)
def test_the_reason_is_said(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (read_image, check_image, read_annotation):
        with pytest.raises(DataError, match=f"a.png {reason}") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_no_program_is_started_for_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*arguments: object, **more: object) -> None:
        raise AssertionError(f"{arguments} was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(subprocess, "check_call", started)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%BeginProlog\nshowpage\n"
    )
    for read in (read_image, check_image, read_annotation):
        with pytest.raises(DataError, match="PostScript"):
            read(path)


def claims(side: int) -> bytes:
    """Some thousand bytes of a JPEG that claim so many pixels on each side."""
    data = encoded("JPEG")
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", side, side) + data[at + 9 :]


LARGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a JPEG of 169 megapixels": (lambda: claims(13_000), "at most 50 megapixels"),
    "a JPEG of 49 megapixels": (lambda: claims(7_000), "bytes for 7000 x 7000 px"),
    "a PNG of 9 terapixels": (lambda: png(3_000_000, 3_000_000, b""), "at most 50 megapixels"),
    "a line": (lambda: png(1, 20_000, b"\0\0" * 20_000), "1 x 20000 px: one side is more than 40"),
    "a thin one": (lambda: encoded("PNG", (2, 800)), "2 x 800 px: one side is more than 40"),
    "a wide one": (lambda: encoded("JPEG", (2010, 50)), "2010 x 50 px: one side is more than 40"),
}


@pytest.mark.parametrize("case", LARGE)
def test_sides_are_looked_at_before_anything_is_decoded(case: str, tmp_path: Path) -> None:
    make, reason = LARGE[case]
    path = tmp_path / "a.png"
    path.write_bytes(make())
    begin = time.process_time()
    for read in (read_image, check_image):
        with pytest.raises(DataError, match=reason):
            read(path)
    assert time.process_time() - begin < 1


def test_the_longest_picture_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG", (3 * MAX_ASPECT, 3)))
    assert read_image(tmp_path / "a.png").size == (3 * MAX_ASPECT, 3)


def test_an_empty_photo_is_no_lie(tmp_path: Path) -> None:
    for format in ("baseline", "progressive"):
        path = tmp_path / f"{format}.jpg"
        plain = Image.new("L", (4000, 3000), 128)
        plain.save(path, "JPEG", quality=5, optimize=True, progressive=format == "progressive")
        assert read_image(path).size == check_image(path) == (4000, 3000)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    with path.open("wb") as stream:
        stream.truncate(10**11)  # nothing of it is on the disk
    with pytest.raises(DataError, match=r"a\.bmp has 100000 MB: at most 300 MB are read"):
        read_image(path)
    with pytest.raises(DataError, match="at most 300 MB"):
        read_annotation(path)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.jpg", "device.png", "folder.png"):
        for read in (read_image, check_image, read_annotation):
            with pytest.raises(DataError, match=f"{name} is no regular file"):
                read(tmp_path / name)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_without_the_right_to_read_it_is_not_called_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG"))
    path.chmod(0)
    with pytest.raises(DataError, match=r"a\.png may not be read"):
        read_image(path)


def test_damage_anywhere_is_one_line_or_no_damage(tmp_path: Path) -> None:
    """Single bytes changed and files cut off, in every format."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000"):
        whole = encoded(format, (24, 16))
        for _ in range(25):
            damaged = bytearray(whole)
            for position in rng.integers(0, min(len(whole), 400), 3):
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged[: rng.integers(1, len(whole) + 1)])
            for read in (read_image, check_image, read_annotation):
                try:
                    read(path)
                except DataError as error:
                    assert "\n" not in str(error) and str(path) in str(error)


# Label maps.


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_label_maps_of_few_bits_hold_what_was_stored(bits: int, tmp_path: Path) -> None:
    values = (np.arange(24).reshape(3, 8) % 2**bits).astype(np.uint8)
    shifts = np.arange(bits - 1, -1, -1)
    lines = [np.packbits((row[:, None] >> shifts & 1).ravel()).tobytes() for row in values]
    (tmp_path / "a.png").write_bytes(png(8, 3, b"".join(b"\0" + line for line in lines), bits))
    assert read_annotation(tmp_path / "a.png").tolist() == values.tolist()


@pytest.mark.parametrize(("format", "name"), [("JPEG", "JPEG"), ("GIF", "GIF"), ("BMP", "BMP")])
def test_label_maps_of_other_formats_are_refused(format: str, name: str, tmp_path: Path) -> None:
    Image.fromarray(np.eye(20, dtype=np.uint8)).save(tmp_path / "a.png", format)
    with pytest.raises(DataError, match=f"a.png is {name} under another name, expected PNG"):
        read_annotation(tmp_path / "a.png")


def test_a_label_map_with_an_orientation_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "a.png", exif=exif)
    with pytest.raises(DataError, match=r"a\.png has an EXIF orientation"):
        read_annotation(tmp_path / "a.png")


def test_truth_of_a_turned_picture_is_told_where_its_size_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (8, 6)).save(tmp_path / "b.jpg", exif=exif)
    (tmp_path / "labels").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "labels" / "a.png")
    Image.new("L", (6, 8)).save(tmp_path / "labels" / "b.PNG", "PNG")
    first, second = load_dataset("folder", tmp_path)
    for sample in (first, second):
        assert sample.label is not None
    (told,) = caplog.messages
    assert "a.jpg is turned by its EXIF orientation" in told


def test_names_are_shown_as_text() -> None:
    assert shown("caf\udce9") == r"caf\udce9"
    assert shown("\x1b[31mred\n") == r"\x1b[31mred\n"
    assert shown("a\u202eb\u2028") == r"a\u202eb\u2028"
    kept = "é 日本\u3000b\u00a0c 👨\u200d👩\u200d👧"
    assert shown(kept) == kept
