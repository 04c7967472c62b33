"""Patch features as they lie on disk: one float16 file a shard, read image by image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

INDEX = "index.parquet"
VALUES = "features.npy"
INDEX_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)

_OPEN_SHARDS = 32

Float16 = npt.NDArray[np.float16]


class StoredFeatures:
    """Features in shards on disk, mapped into memory as they are read.

    Attributes:
        image_ids: in the order of the images.
        dim: C, channels of a patch.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self._places: list[tuple[Path, int, int, int]] = []  # shard, first row, height, width
        names: list[str] = []
        for shard in shards:
            start = 0
            for row in pq.read_table(shard / INDEX).to_pylist():
                self._places.append((shard, start, row["height"], row["width"]))
                names.append(row["image_id"])
                start += row["height"] * row["width"]
        self.image_ids = tuple(names)
        self._open: OrderedDict[Path, Float16] = OrderedDict()
        self.dim = int(self._values(shards[0]).shape[1]) if shards else 0

    def __len__(self) -> int:
        """Number of images."""
        return len(self._places)

    def grid(self, index: int) -> tuple[int, int]:
        """(h, w), patches of an image."""
        return self._places[index][2:]

    def load(self, index: int) -> Float16:
        """[h, w, C] float16 features of an image; a view of the file."""
        shard, start, height, width = self._places[index]
        values = self._values(shard)[start : start + height * width]
        return values.reshape(height, width, -1)

    def _values(self, shard: Path) -> Float16:
        # A map holds a file descriptor, and there may be more shards than a process may open.
        if shard not in self._open:
            if len(self._open) >= _OPEN_SHARDS:
                self._open.popitem(last=False)
            self._open[shard] = np.load(shard / VALUES, mmap_mode="r")
        self._open.move_to_end(shard)
        return self._open[shard]
