"""Label maps packed into few files: what stores of many small files cannot bear, as ZIP archives.

A pack is a ZIP archive of PNGs without further compression, sorted by name, with no time in it: the
same label maps give the same bytes. Its own directory is the index, and it is named after its first
picture: the names in a folder say which pack holds a picture, so one is read with one look into one
file. A published pack begins with each picture whose id has a sha256 that begins with a zero byte
(256 pictures on average): a picture more or less changes one pack, and leaves the others' bytes.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from fmbseg.errors import DataError
from fmbseg.store.atomic import replace_directory, temporary_directory

PACK = ".zip"
_LABEL = ".png"
_LOCAL_HEADER = struct.Struct("<26xHH")  # of an entry: lengths of its name and of its extra field


def write_pack(folder: Path, labels: Mapping[str, bytes]) -> None:
    """Write `<first image_id>.zip` with the PNGs of some pictures (image id -> bytes), sorted.

    Raises:
        ValueError: there are none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{min(labels)}{PACK}", "w", zipfile.ZIP_STORED) as pack:
        for image_id in sorted(labels):
            # ZipInfo's own time is 1980-01-01, whatever the clock says.
            pack.writestr(zipfile.ZipInfo(f"{image_id}{_LABEL}"), labels[image_id])


def unpack(folder: Path) -> None:
    """Put a PNG for each picture in the place of the packs of a folder."""
    for pack in _packs(folder):
        for image_id in _directory(pack):
            (folder / f"{image_id}{_LABEL}").write_bytes(_read(pack, image_id))
        pack.unlink()


def repack(folder: Path) -> None:
    """Cut the packs of a folder anew, as they are published; PNGs beside them win, and go.

    What is written depends on the pictures alone, not on how the packs were cut before.
    """
    packs, loose = _packs(folder), {path.stem: path for path in folder.glob(f"*{_LABEL}")}
    where = {image_id: pack for pack in packs for image_id in _directory(pack)}
    made = folder / "packed"
    for image_ids in _cuts(sorted({*where, *loose})):
        labels = {
            image_id: loose[image_id].read_bytes()
            if image_id in loose
            else _read(where[image_id], image_id)
            for image_id in image_ids
        }
        write_pack(made, labels)
    for path in (*packs, *loose.values()):
        path.unlink()
    for path in _packs(made):
        os.rename(path, folder / path.name)
    if made.is_dir():
        made.rmdir()


def label_source(path: Path) -> Path | bytes:
    """Where the label map that is so named lies: the file itself, or the PNG out of its pack.

    Args:
        path: `labels/<image_id>.png`; there may be packs in that folder in place of the file.

    Returns:
        The path, whether there is such a file or not; the content of the PNG if it is packed.

    Raises:
        DataError: its pack is damaged.
    """
    if path.is_file():
        return path
    pack = _pack_of(path)
    return path if pack is None else _read(pack, path.stem)


def has_label(path: Path) -> bool:
    """Whether a label map is there, see `label_source`; raises DataError as it does."""
    return path.is_file() or _pack_of(path) is not None


def label_ids(folder: Path) -> list[str]:
    """Ids of the pictures whose label maps lie in a folder, packed or not, sorted.

    Raises:
        DataError: a pack is damaged.
    """
    packed = [image_id for pack in _packs(folder) for image_id in _directory(pack)]
    return sorted({*packed, *(path.stem for path in folder.glob(f"*{_LABEL}"))})


def copy_labels(folder: Path, image_ids: Iterable[str], out: Path) -> int:
    """Write a PNG for each of some pictures into another folder, or beside the packs.

    Returns:
        Number of pictures.

    Raises:
        DataError: one has no label map, or its pack is damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for image_id in image_ids:
        source = label_source(folder / f"{image_id}{_LABEL}")
        if isinstance(source, Path) and not source.is_file():
            raise DataError(f"{folder} has no label map of {image_id!r}: look at its image ids")
        content = source.read_bytes() if isinstance(source, Path) else source
        (out / f"{image_id}{_LABEL}").write_bytes(content)
        count += 1
    return count


def unpack_out(place: Path, out: Path, image_ids: Sequence[str] | None = None) -> int:
    """Write the label maps of an out of the stage label as one PNG each, whole or not at all.

    Args:
        place: the out.
        out: a folder that is new or empty; it gets a folder for each vocabulary, where there are
            several.
        image_ids: of some pictures; None: of all.

    Returns:
        Number of label maps.

    Raises:
        DataError: there are none, a picture has none, or a pack is damaged.
    """
    labels = place / "labels"
    folders = sorted(path for path in labels.glob("*") if path.is_dir()) or [labels]
    count = 0
    with temporary_directory(out.absolute().parent, out.name) as temporary:
        for folder in folders:
            ids = label_ids(folder) if image_ids is None else image_ids
            count += copy_labels(folder, ids, temporary / folder.relative_to(labels))
        if not count:
            raise DataError(f"{place} has no label maps: give one such as data/pseudo/label")
        replace_directory(temporary, out.absolute())
    return count


def _cuts(image_ids: Sequence[str]) -> Iterator[list[str]]:
    """Sorted ids in the parts that are packed together; each cut depends on one id alone."""
    part: list[str] = []
    for image_id in image_ids:
        if part and hashlib.sha256(image_id.encode()).digest()[0] == 0:
            yield part
            part = []
        part.append(image_id)
    if part:
        yield part


def _packs(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{PACK}"), key=lambda path: path.stem)


def _pack_of(path: Path) -> Path | None:
    """The pack that holds a label map, by its name; None: there is none."""
    try:
        changed = path.parent.stat().st_mtime_ns
    except OSError:
        return None
    names = _names(path.parent, changed)
    # Sorted by id, and named after the first: it is in the last pack that begins before it.
    place = bisect_right(names, path.stem)
    if place == 0:
        return None
    pack = path.parent / f"{names[place - 1]}{PACK}"
    return pack if path.stem in _directory(pack) else None


@lru_cache(maxsize=64)
def _names(folder: Path, changed: int) -> list[str]:
    return [pack.stem for pack in _packs(folder)]


def _directory(pack: Path) -> dict[str, zipfile.ZipInfo]:
    """Image id -> entry of a pack."""
    try:
        status = pack.stat()
        return _entries(pack, status.st_mtime_ns, status.st_size)
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(pack) from error


@lru_cache(maxsize=32)  # no file stays open: what is kept is the directory alone
def _entries(pack: Path, changed: int, size: int) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(pack) as opened:
        return {info.filename.removesuffix(_LABEL): info for info in opened.infolist()}


def _read(pack: Path, image_id: str) -> bytes:
    info = _directory(pack)[image_id]
    try:
        with pack.open("rb") as stream:
            stream.seek(info.header_offset)
            lengths = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
            stream.seek(sum(lengths), os.SEEK_CUR)
            content = stream.read(info.file_size)
    except (OSError, struct.error) as error:
        raise _damaged(pack) from error
    if zlib.crc32(content) != info.CRC:
        raise _damaged(pack)
    return content


def _damaged(pack: Path) -> DataError:
    return DataError(f"{pack} is damaged: `fmbseg run label` makes it again")
