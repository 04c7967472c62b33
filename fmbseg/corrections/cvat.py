"""Corrections in CVAT's "Segmentation mask 1.1": the archive, or the folder it unpacks to."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from fmbseg.corrections.target import Target
from fmbseg.data.images import MAX_BYTES, open_picture
from fmbseg.documents import read_regular
from fmbseg.errors import DataError, one_line
from fmbseg.export.source import BACKGROUND, NOTHING, Label, LabelledImage
from fmbseg.export.voc import LABELMAP

_FOLDER = "SegmentationClass/"
# What VOC's label map calls pixels that are left out.
_IGNORED = "ignored"
_LONGEST = 10_000_000  # characters of a label map: 65,535 names have fewer
# What zipfile raises of a damaged archive, of one with a password, or packed in another way.
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError)


def read_cvat(path: Path, target: Target) -> Iterator[tuple[LabelledImage, Label]]:
    """See `Reader`. Black is the background; where there is none, it has no label."""
    if not path.exists():
        raise DataError(f"{path} does not exist: name the archive that CVAT exported")
    if path.is_dir():
        files = [each.relative_to(path).as_posix() for each in sorted(path.rglob("*.png"))]
        yield from _read(path, files, lambda name: read_regular(path / name, MAX_BYTES), target)
        return
    if not path.is_file():
        raise DataError(f"{path} is no regular file: name the archive that CVAT exported")
    try:
        with zipfile.ZipFile(path) as archive:
            yield from _read(path, archive.namelist(), partial(_unpacked, archive), target)
    except _DAMAGED as error:
        raise DataError(f"{path} is no archive ({one_line(error)}): export it again") from error


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MAX_BYTES:
        raise zipfile.BadZipFile(f"{name} unpacks to more than {MAX_BYTES // 1_000_000} MB")
    return archive.read(name)


def _read(
    path: Path, files: list[str], content: Callable[[str], bytes], target: Target
) -> Iterator[tuple[LabelledImage, Label]]:
    try:
        text = content(LABELMAP).decode("utf-8")
    except (KeyError, FileNotFoundError) as error:
        raise DataError(
            f'{path} has no {LABELMAP}: export it as "Segmentation mask 1.1"'
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {LABELMAP} is not text: export it again") from error
    if len(text) > _LONGEST:
        raise DataError(f"{path}: {LABELMAP} has {len(text)} characters: export it again")
    colours = _colours(text, path)
    maps = sorted(name for name in files if name.startswith(_FOLDER) and name.endswith(".png"))
    if not maps:
        raise DataError(f"{path} has nothing in {_FOLDER}: export it again")
    for name in maps:
        image = target.image(name.removeprefix(_FOLDER), path)
        with open_picture(content(name), f"{path}: {name}", formats=("PNG",)) as picture:
            painted = np.asarray(picture.convert("RGB")).astype(np.int64)
        label = target.empty(image, (painted.shape[0], painted.shape[1]), path)
        values = painted @ np.array([1 << 16, 1 << 8, 1])
        for value in np.unique(values).tolist():
            if value not in colours:
                colour = (value >> 16, value >> 8 & 255, value & 255)
                raise DataError(
                    f"{path}: {name} has the colour {colour} of no class: export it again"
                )
            label[values == value] = _index(colours[value], target, path)
        yield image, label


def _colours(text: str, path: Path) -> dict[int, str]:
    """Name by colour as a number."""
    colours: dict[int, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, colour, *_ = line.split(":")
            red, green, blue = (int(part) for part in colour.split(","))
        except ValueError as error:
            raise DataError(f"{path}: {LABELMAP} has the line {line!r}: export it again") from error
        colours[red << 16 | green << 8 | blue] = name
    return colours


def _index(name: str, target: Target, path: Path) -> int:
    classes = target.classes
    if name in classes.names:
        return classes.names.index(name)
    if name == BACKGROUND:
        return NOTHING if classes.background is None else classes.background
    return NOTHING if name == _IGNORED else target.class_index(name, path)
