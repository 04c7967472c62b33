"""Encodings of images, shared by the stages that run as separate processes.

This is a cache, not an out: losing it costs time only.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from fmbseg.store.atomic import write_atomically

_log = logging.getLogger(__name__)
Arrays = Mapping[str, npt.NDArray[Any]]


class Encoded(Protocol):
    """What can be kept: it turns itself into arrays and back."""

    def arrays(self) -> Arrays:
        """Everything it holds, as arrays of float16 or integers: they are kept as they are.

        So its values are rounded when it is made: a kept one and a fresh one are equal.
        """

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """The one whose `arrays` these are."""


Kept = TypeVar("Kept", bound=Encoded)


# Other processes put into the same folder; after so many of our own puts it is counted anew.
_RECOUNT = 1000


# Bytes that a folder holds, as far as this process knows; all its caches share the budget.
_USED: dict[Path, int] = {}
_OPENED: set[Path] = set()  # the keys' folders that this process has opened


def _count(root: Path) -> None:
    total = 0
    # Unlike rglob, walk passes over folders that another process is dropping.
    for folder, _, files in os.walk(root):
        for file in files:
            with suppress(FileNotFoundError):
                total += Path(folder, file).stat().st_size
    _USED[root] = total


class EncodingCache:
    """Arrays by the sha256 of the image, under the key of what encoded them.

    Over the disk budget, encodings of earlier models and parameters make room: all but those under
    the keys that this process has opened, and of each kind those under the key that any process has
    opened last. If that is not enough nothing is stored, and one log line says so; the next stage
    makes the encoding again. Dropping encodings in use would be no better: stages pass over all
    images, one stage after the other.

    Args:
        root: folder of all encodings; the budget holds for the whole of it.
        kind: of encoding, such as "clip-encoding".
        key: content key of model, weights and encoding parameters, without "-".
        budget_bytes: disk budget.
    """

    def __init__(self, root: Path, kind: str, key: str, budget_bytes: int) -> None:
        self.root = root
        self.directory = root / f"{kind}-{key}"
        self.budget_bytes = budget_bytes
        self._full = False
        self._puts = 0
        _count(root)
        _OPENED.add(self.directory)
        with suppress(OSError):  # it is yet to be made, or cannot be written
            os.utime(self.directory)  # the last opened of its kind

    def get(self, image_sha: str) -> dict[str, npt.NDArray[Any]] | None:
        """The arrays as they were put, or None; a damaged entry is removed and absent."""
        path = self._path(image_sha)
        try:
            with np.load(path, allow_pickle=False) as archive:
                # Reading a member checks its CRC.
                return {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            return None
        except OSError as error:  # it may be readable the next time
            self._give_up(f"cannot be read ({error.strerror})", "see to its disk and rights")
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("damaged encoding %s removed (%s)", path.name, error)
            with suppress(OSError):
                path.unlink()
        return None

    def put(self, image_sha: str, arrays: Arrays) -> None:
        """Store arrays of float16, integers or booleans; nothing happens over the budget.

        Where nothing can be written, one warning says so.

        Raises:
            TypeError: an array has another dtype: it would not be equal to a fresh encoding.
        """
        for name, array in arrays.items():
            if array.dtype != np.float16 and array.dtype.kind not in "iub":
                raise TypeError(f"encoding {name} is {array.dtype}, not float16 or an integer")
        path = self._path(image_sha)
        if os.path.exists(path):  # False, where Path.exists raises, in a folder of others
            return
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        size = buffer.getbuffer().nbytes
        if not self._fits(size) and not self._full:
            self._make_room(size)
        if not self._fits(size):
            self._give_up(
                f"is full ({_USED[self.root] / 1e9:.1f} of {self.budget_bytes / 1e9:.1f} GB)",
                "raise run.cache_gb or delete the folder",
            )
            return
        try:
            write_atomically(path, buffer.getvalue())
        except (FileNotFoundError, FileExistsError):
            return  # another process, with other parameters, has just dropped this folder
        except OSError as error:
            self._give_up(f"cannot be written ({error.strerror})", "see to its disk and rights")
            return
        _USED[self.root] += size
        self._puts += 1
        if self._puts % _RECOUNT == 0:
            _count(self.root)

    def _fits(self, size: int) -> bool:
        return _USED[self.root] + size <= self.budget_bytes

    def _give_up(self, reason: str, advice: str) -> None:
        if not self._full:
            self._full = True
            _log.warning(
                "encoding cache %s %s: further encodings are made again by each stage; %s",
                self.root,
                reason,
                advice,
            )

    def _make_room(self, size: int) -> None:
        """Drop keys that are not in use, the one longest unused first, until `size` bytes fit."""
        _count(self.root)  # another process may have made room
        if size > self.budget_bytes or self._fits(size):
            return
        opened: dict[Path, int] = {}
        for path in self.root.glob("*/"):
            with suppress(FileNotFoundError):
                opened[path] = path.stat().st_mtime_ns
        keys = sorted(opened, key=opened.__getitem__)
        # A name without "-" is a folder of an earlier version, and of no kind.
        last = {path.name.rpartition("-")[0]: path for path in keys if "-" in path.name}
        for path in keys:
            if path in _OPENED or path in last.values():
                continue
            _log.info("encoding cache: %s, of another model or other parameters, dropped", path)
            shutil.rmtree(path, ignore_errors=True)
            _count(self.root)
            if self._fits(size):
                return

    def _path(self, image_sha: str) -> Path:
        # Two levels: file systems and people dislike 100,000 files in one folder.
        return self.directory / image_sha[:2] / f"{image_sha}.npz"


def cached(
    cache: EncodingCache | None, image_sha: str, kind: type[Kept], make: Callable[[], Kept]
) -> Kept:
    """What the cache holds of an image, or else is made and put there; the same bits either way.

    Args:
        cache: None: nothing is kept.
        image_sha: sha256 of the image.
        kind: class of what the cache holds.
        make: makes it.
    """
    arrays = cache.get(image_sha) if cache else None
    if arrays is not None:
        return kind.from_arrays(arrays)
    made = make()
    if cache:
        cache.put(image_sha, made.arrays())
    return made
