"""The list of images a run is made of, with their digests. No annotation is ever opened here."""

from __future__ import annotations

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fmbseg.data.datasets import load_dataset
from fmbseg.data.images import naming_damage, read_image, refuse_deep, upright_size
from fmbseg.errors import DataError
from fmbseg.machine.progress import Progress, silent_progress
from fmbseg.store.digest import json_digest

__all__ = ["ImageRecord", "Manifest", "build_manifest", "read_image"]

_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


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

    def to_parquet(self, path: Path) -> None:
        """Write a row per image; paths as they are (relative where the root was relative)."""
        columns = {
            "image_id": [record.image_id for record in self.records],
            "path": [record.path.as_posix() for record in self.records],
            "sha256": [record.sha256 for record in self.records],
            "width": [record.width for record in self.records],
            "height": [record.height for record in self.records],
        }
        metadata = {"name": self.name, "split": self.split}
        pq.write_table(pa.table(columns, schema=_SCHEMA.with_metadata(metadata)), path)

    @classmethod
    def from_parquet(cls, path: Path) -> Manifest:
        """Read what `to_parquet` wrote.

        Raises:
            DataError: the file is missing or not such a table.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} is not a manifest: build it again") from error
        metadata = table.schema.metadata or {}
        if not table.schema.equals(_SCHEMA) or not {b"name", b"split"} <= set(metadata):
            raise DataError(f"{path} is not a manifest: build it again")
        rows = table.to_pylist()
        records = tuple(ImageRecord(**{**row, "path": Path(row["path"])}) for row in rows)
        return cls(records, metadata[b"name"].decode(), metadata[b"split"].decode())


def build_manifest(
    name: str,
    root: str | Path,
    split: str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
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

    Raises:
        DataError: the layout is not as expected, or an image is broken (its file is named).
    """
    dataset = load_dataset(name, root, split)
    files = dataset.image_files[:limit]
    progress = silent_progress() if progress is None else progress
    # Decoding and hashing release the interpreter lock; threads are enough.
    workers = min(8, os.cpu_count() or 1)
    records: list[ImageRecord] = []
    with progress.task("manifest", len(files)) as task, ThreadPoolExecutor(workers) as pool:
        for record in pool.map(_record, files):
            records.append(record)
            task.advance()
    return Manifest(tuple(records), name, dataset.split)


def _record(file: tuple[str, Path]) -> ImageRecord:
    image_id, path = file
    with naming_damage(path):
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            refuse_deep(image, path)
            width, height = upright_size(image)
            # JPEG is then decoded at an eighth of its size; still all of its data are read.
            image.draft("L", (1, 1))
            image.load()
    return ImageRecord(image_id, path, hashlib.sha256(data).hexdigest(), width, height)
