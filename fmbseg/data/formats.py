"""Formats of picture files: which are read, and what to say of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Pillow's name of each format that is read, and the extensions its files have, lower case.
FORMATS: Mapping[str, tuple[str, ...]] = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png",),
    "WEBP": ("webp",),
    "TIFF": ("tif", "tiff"),
    "BMP": ("bmp",),
    "GIF": ("gif",),
    "AVIF": ("avif",),
    "JPEG2000": ("jp2", "j2k"),
}
#: File name extensions taken as images, lower case.
IMAGE_EXTENSIONS = tuple(sorted(each for names in FORMATS.values() for each in names))

#: What `fmbseg predict` puts behind a picture's name for its label map, and for all its results.
PREDICTED = ".label.png"
RESULTS = (".overlay.png", PREDICTED, ".json")
#: What it writes beside them when asked: how sure it is in two forms, and outlines.
SCORES_PNG, SCORES_NPZ, CONTOURS = ".scores.png", ".scores.npz", ".contours.json"

#: Extensions of videos, lower case; they are named one by one.
VIDEO_EXTENSIONS = ("avi", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "webm", "wmv")
#: What `fmbseg predict` puts behind a video's name, and for the legend of many classes.
VIDEO_RESULTS = (".overlay.mp4", ".json")
VIDEO_LEGEND = ".legend.png"

_CONVERT = "which is not read: convert it to JPEG or PNG"
#: Extensions of pictures that are not read, and what they are.
OTHER_PICTURES: Mapping[str, str] = {
    **dict.fromkeys(("heic", "heif", "hif"), f"HEIC, {_CONVERT}"),
    **dict.fromkeys(("eps", "ps", "ai", "pdf", "svg", "emf", "wmf"), f"a drawing, {_CONVERT}"),
    **dict.fromkeys(("psd", "psb", "xcf"), f"an image editor's own file, {_CONVERT}"),
    **dict.fromkeys(
        ("dng", "cr2", "cr3", "nef", "nrw", "arw", "raf", "orf", "rw2", "pef", "srw"),
        f"a camera's raw data, {_CONVERT}",
    ),
    **dict.fromkeys(
        ("jxl", "ico", "icns", "tga", "ppm", "pgm", "pbm", "pnm", "exr", "hdr", "dds", "qoi"),
        f"a picture of a format {_CONVERT.removeprefix('which ')}",
    ),
    **dict.fromkeys(VIDEO_EXTENSIONS, "a video: name it itself to `fmbseg predict`"),
}

# How the content of other files begins.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"%!PS", f"is PostScript (EPS), {_CONVERT}"),
    (b"\xc5\xd0\xd3\xc6", f"is PostScript (EPS), {_CONVERT}"),
    (b"%PDF", f"is a PDF, {_CONVERT}"),
    (b"8BPS", f"is a Photoshop file, {_CONVERT}"),
    (b"<svg", f"is SVG, {_CONVERT}"),
    (b"<?xml", f"is XML (SVG?), {_CONVERT}"),
    (b"<!doctype", "is a web page under a picture's name: download the picture again"),
    (b"<html", "is a web page under a picture's name: download the picture again"),
    (b"version https://git-lfs", "is a pointer of Git LFS: fetch its content with `git lfs pull`"),
    (b"\x00\x05\x16\x07", "is macOS's own file beside a picture: remove it"),
    (b"PK\x03\x04", "is a zip archive: unpack it"),
)
# Pillow's names by how content begins, for what is read elsewhere and not here.
_READ: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"RIFF", "WEBP"),
    (b"\x00\x00\x00\x0cjP", "JPEG2000"),
)
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def what_it_is(beginning: bytes, wanted: Sequence[str]) -> str | None:
    """What a file that holds no picture of the wanted formats is, and what to do; None: unknown.

    Args:
        beginning: of its content, some thousand bytes.
        wanted: Pillow's names of formats.
    """
    if not beginning:
        return "is empty (0 bytes): replace or remove it"
    if not beginning.strip(b"\0"):
        return "holds nothing but zeros: replace or remove it"
    if beginning[4:8] == b"ftyp":
        return f"is {'HEIC' if beginning[8:12] in _HEIC else 'AVIF or a film'}, {_CONVERT}"
    start = beginning.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for mark, meaning in _BEGINNINGS:
        if beginning.startswith(mark) or start.startswith(mark.lower()):
            return meaning
    for mark, name in _READ:
        if beginning.startswith(mark) and name not in wanted:
            expected = " or ".join(wanted)
            return f"is {name} under another name, expected {expected}: save it as {expected}"
    return None
