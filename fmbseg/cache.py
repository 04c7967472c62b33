"""CLIP and SAM encodings of an image, shared by the stages that run as separate processes.

This is a cache, not an out: losing it costs time only.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.atomic import write_atomically

_log = logging.getLogger(__name__)


# Other processes put into the same folder; after so many of our own puts it is counted anew.
_RECOUNT = 1000


@dataclass
class _Used:
    """What a folder holds, as far as this process knows; all its caches share the budget."""

    bytes: int
    puts: int = 0


_USED: dict[Path, _Used] = {}


def _count(root: Path) -> None:
    _USED[root] = _Used(sum(file.stat().st_size for file in root.rglob("*.npz")))


class EncodingCache:
    """Arrays by the sha256 of the image, under the key of what encoded them.

    Args:
        root: folder of all encodings; the budget holds for the whole of it.
        key: content key of model, weights and encoding parameters.
        budget_bytes: disk budget. What goes over it is not stored, and one log line says so;
            the encoding is then made again by the next stage.
    """

    def __init__(self, root: Path, key: str, budget_bytes: int) -> None:
        self.root = root
        self.directory = root / key
        self.budget_bytes = budget_bytes
        self._full = False
        _count(root)

    def get(self, image_sha: str) -> dict[str, npt.NDArray[Any]] | None:
        """The arrays as they were put, or None; a damaged entry is removed and absent."""
        path = self._path(image_sha)
        try:
            with np.load(path, allow_pickle=False) as archive:
                # Reading a member checks its CRC.
                return {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("damaged encoding %s removed (%s)", path.name, error)
            path.unlink(missing_ok=True)
            return None

    def put(self, image_sha: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Store arrays of float16, integers or booleans; nothing happens over the budget.

        Raises:
            TypeError: an array has another dtype: it would not be equal to a fresh encoding.
        """
        for name, array in arrays.items():
            if array.dtype != np.float16 and array.dtype.kind not in "iub":
                raise TypeError(f"encoding {name} is {array.dtype}, not float16 or an integer")
        path = self._path(image_sha)
        if path.exists():
            return
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        size = buffer.getbuffer().nbytes
        used = _USED[self.root]
        if used.bytes + size > self.budget_bytes:
            if not self._full:
                self._full = True
                _log.warning(
                    "encoding cache %s is full (%.1f of %.1f GB): further encodings are made"
                    " again by each stage; raise run.cache_gb or delete the folder",
                    self.root,
                    used.bytes / 1e9,
                    self.budget_bytes / 1e9,
                )
            return
        write_atomically(path, buffer.getvalue())
        used.bytes += size
        used.puts += 1
        if used.puts >= _RECOUNT:
            _count(self.root)

    def _path(self, image_sha: str) -> Path:
        # Two levels: file systems and people dislike 100,000 files in one folder.
        return self.directory / image_sha[:2] / f"{image_sha}.npz"
