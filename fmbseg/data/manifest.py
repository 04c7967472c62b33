"""The list of images a run is made of, with their digests. No annotation is ever opened here."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from fmbseg.data.datasets import load_dataset
from fmbseg.data.images import naming_damage, refuse_deep, upright_size
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
        name: of the data set.
        split: of the data set.
    """

    records: tuple[ImageRecord, ...]
    name: str
    split: str

    @cached_property
    def digest(self) -> str:
        """Hex sha256 over ids and file digests in order; where the files lie does not count."""
        return json_digest([[record.image_id, record.sha256] for record in self.records])


def build_manifest(
    name: str,
    root: str | Path,
    split: str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    memory: Path | None = None,
) -> Manifest:
    """Read and digest every image of a split.

    Opens images and split lists only, never an annotation. Every image is decoded once (JPEG at an
    eighth of its size), so a truncated one is found here and not hours later.

    Args:
        name: data set name, see `fmbseg.data.datasets.dataset_names`.
        root: its folder.
        split: None: the data set's default split.
        limit: take the first `limit` images only.
        progress: where progress is shown.
        memory: folder where it is remembered what unchanged files hold; None: all are read.

    Raises:
        DataError: the layout is not as expected, or an image is broken (its file is named).
    """
    dataset = load_dataset(name, root, split)
    files = dataset.image_files[:limit]
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
    return Manifest(tuple(records), name, dataset.split)


def _examine(path: Path) -> str:
    """sha256 of a picture's file, and width and height in pixels when upright."""
    with naming_damage(path):
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            refuse_deep(image, path)
            width, height = upright_size(image)
            # JPEG is then decoded at an eighth of its size; still all of its data are read.
            image.draft("L", (1, 1))
            image.load()
    return f"{hashlib.sha256(data).hexdigest()} {width} {height}"
