"""The pictures of a folder: those that can be read, and why the others cannot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fmbseg.data.datasets import load_dataset
from fmbseg.data.images import check_image
from fmbseg.errors import DataError
from fmbseg.labelling.record import LabelledFile
from fmbseg.machine.progress import Progress
from fmbseg.store.digest import file_digest
from fmbseg.store.file_memory import remembered

# Of what is remembered of a file; a new number reads all anew.
_MEMORY = 1
_BROKEN = "! "


@dataclass(frozen=True)
class Picture:
    """One picture that can be read, and the sha256 of its file."""

    file: LabelledFile
    path: Path
    sha256: str


@dataclass(frozen=True)
class Pictures:
    """The pictures of a folder, by path.

    Attributes:
        folder: absolute.
        readable: those that can be labelled.
        skipped: path relative to the folder -> why it cannot be read.
    """

    folder: Path
    readable: tuple[Picture, ...]
    skipped: dict[str, str]


def find_pictures(folder: Path, besides: Path, memory: Path | None, progress: Progress) -> Pictures:
    """Read every picture of a folder and its sub-folders once.

    Args:
        folder: of the pictures.
        besides: a folder whose files are no pictures to be labelled, wherever it lies.
        memory: folder where it is remembered what unchanged files hold; None: all are read.
        progress: where progress is shown.

    Raises:
        DataError: there is no such folder, or no picture in it that can be read.
    """
    listed = load_dataset("folder", folder, "all").image_files
    root, out = folder.resolve(), besides.resolve()
    found = [(name, path) for name, path in listed if not path.resolve().is_relative_to(out)]
    answers = remembered(
        memory,
        f"pictures {_MEMORY}",
        [(path,) for _, path in found],
        lambda index: _examine(found[index][1]),
        progress,
        "read",
    )
    readable, skipped = [], {}
    for (name, path), answer in zip(found, answers, strict=True):
        relative = path.absolute().relative_to(folder.absolute()).as_posix()
        if answer.startswith(_BROKEN):
            skipped[relative] = answer.removeprefix(_BROKEN)
            continue
        sha256, width, height = answer.split()
        file = LabelledFile(name, relative, int(width), int(height))
        readable.append(Picture(file, path, sha256))
    if not readable:
        reasons = "; ".join(skipped.values()) or "it is empty"
        raise DataError(f"{folder} holds no picture that can be read: {reasons}")
    return Pictures(root, tuple(readable), skipped)


def _examine(path: Path) -> str:
    try:
        width, height = check_image(path)
    except DataError as error:
        return f"{_BROKEN}{error}"
    return f"{file_digest(path)} {width} {height}"
