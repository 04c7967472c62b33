"""The list of images a run is made of, with their digests. No annotation is ever opened here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fmbseg.data.datasets import SegmentationDataset
from fmbseg.data.folder import LeftOut
from fmbseg.data.images import check_image, read_bytes
from fmbseg.errors import DataError, shown
from fmbseg.machine.progress import Progress, silent_progress
from fmbseg.store.digest import json_digest
from fmbseg.store.file_memory import remembered

# Of what is remembered of a file; a new number reads all anew.
_MEMORY = 1


@dataclass(frozen=True)
class ImageRecord:
    """One image: id, file, sha256 of the file's bytes, size in pixels when upright."""

    image_id: str
    path: Path
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Manifest:
    """The images of a run, in order.

    Attributes:
        records: one per image.
        left_out: pictures that cannot be read, and why; they are no part of the run.
    """

    records: tuple[ImageRecord, ...]
    left_out: tuple[LeftOut, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Hex sha256 over ids and file digests in order; where the files lie does not count."""
        return json_digest([[record.image_id, record.sha256] for record in self.records])


def build_manifest(
    dataset: SegmentationDataset,
    progress: Progress | None = None,
    memory: Path | None = None,
    *,
    strict: bool = True,
) -> Manifest:
    """Read and digest every image of a data set.

    Opens images and split lists only, never an annotation. Every image is decoded once (JPEG at an
    eighth of its size), so a truncated one is found here and not hours later.

    Args:
        dataset: a split, or a slice of one.
        progress: where progress is shown.
        memory: folder where it is remembered what unchanged files hold; None: all are read.
        strict: a broken image ends it; otherwise it is left out.

    Raises:
        DataError: an image is broken (its file is named); without `strict`: all are.
    """
    if strict and dataset.unusable:
        raise DataError(str(dataset.unusable[0]))
    files = dataset.image_files
    broken: dict[int, LeftOut] = {}

    def examine(index: int) -> str:
        path = files[index][1]
        try:
            return _examine(path)
        except DataError as error:
            if strict:
                raise
            broken[index] = LeftOut(path, str(error).removeprefix(f"{shown(path)} "))
            return ""

    values = remembered(
        memory,
        f"manifest {_MEMORY} of {dataset.root.resolve()}",
        [(path,) for _, path in files],
        examine,
        silent_progress() if progress is None else progress,
        "manifest",
    )
    records = []
    for index, ((image_id, path), value) in enumerate(zip(files, values, strict=True)):
        if index in broken:
            continue
        sha256, width, height = value.split()
        records.append(ImageRecord(image_id, path, sha256, int(width), int(height)))
    left_out = (*dataset.unusable, *(broken[index] for index in sorted(broken)))
    if not records and left_out:
        reasons = "; ".join(map(str, left_out[:3]))
        raise DataError(f"{dataset.name}: none of {len(left_out)} images can be read: {reasons}")
    return Manifest(tuple(records), left_out)


def _examine(path: Path) -> str:
    """sha256 of a picture's file, and width and height in pixels when upright."""
    data = read_bytes(path)
    width, height = check_image(path, data)
    return f"{hashlib.sha256(data).hexdigest()} {width} {height}"
