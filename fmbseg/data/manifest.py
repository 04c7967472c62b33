"""The list of images a run is made of, with their digests. No annotation is ever opened here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fmbseg.data.datasets import SegmentationDataset
from fmbseg.data.images import check_image, naming_damage
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
    """

    records: tuple[ImageRecord, ...]

    @cached_property
    def digest(self) -> str:
        """Hex sha256 over ids and file digests in order; where the files lie does not count."""
        return json_digest([[record.image_id, record.sha256] for record in self.records])


def build_manifest(
    dataset: SegmentationDataset,
    progress: Progress | None = None,
    memory: Path | None = None,
) -> Manifest:
    """Read and digest every image of a data set.

    Opens images and split lists only, never an annotation. Every image is decoded once (JPEG at an
    eighth of its size), so a truncated one is found here and not hours later.

    Args:
        dataset: a split, or a slice of one.
        progress: where progress is shown.
        memory: folder where it is remembered what unchanged files hold; None: all are read.

    Raises:
        DataError: an image is broken (its file is named).
    """
    files = dataset.image_files
    values = remembered(
        memory,
        f"manifest {_MEMORY} of {dataset.root.resolve()}",
        [(path,) for _, path in files],
        lambda index: _examine(files[index][1]),
        silent_progress() if progress is None else progress,
        "manifest",
    )
    records = []
    for (image_id, path), value in zip(files, values, strict=True):
        sha256, width, height = value.split()
        records.append(ImageRecord(image_id, path, sha256, int(width), int(height)))
    return Manifest(tuple(records))


def _examine(path: Path) -> str:
    """sha256 of a picture's file, and width and height in pixels when upright."""
    with naming_damage(path):
        data = path.read_bytes()
    width, height = check_image(path, data)
    return f"{hashlib.sha256(data).hexdigest()} {width} {height}"
