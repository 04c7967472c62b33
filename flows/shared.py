"""Sealed folders (shards and outs) where all workers reach them: a path, or S3, GCS, SSH."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from fsspec.core import url_to_fs

from fmbseg.errors import ConfigError, StoreError
from fmbseg.store import atomic


class SharedStorage:
    """Folders by name under a path or an fsspec URL, such as `s3://bucket/fmbseg`.

    A folder is there when its listing is, which is written last; what comes from the storage is
    held against the listing's sha256 before it gets its final name.

    Raises:
        ConfigError: no such kind of storage, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._files, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"storage {url}: {error}") from error

    def push(self, folder: Path, name: str, listing: str) -> None:
        """Copy a sealed folder into the storage, unless the same one is there."""
        place = f"{self._root}/{name}"
        if self._same(place, folder, listing):
            return
        for file in [*atomic.contents(folder, listing), listing]:
            target = f"{place}/{file}"
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            # No file system of fsspec renames for sure; a half-written listing fails its check.
            self._files.put_file(str(folder / file), target)

    def pull(self, folder: Path, name: str, listing: str) -> None:
        """Copy a folder from the storage to its final place, which it replaces.

        Raises:
            StoreError: it is not in the storage, or damaged there.
        """
        place = f"{self._root}/{name}"
        # A folder of its own: `atomic` locks the parent itself while it makes a temporary one.
        mark = folder.parent / f".{folder.name}.lock"
        mark.mkdir(parents=True, exist_ok=True)
        with atomic.lock(mark):
            if atomic.damage(folder, listing) is None and self._same(place, folder, listing):
                return  # another process of this machine was faster
            with atomic.temporary_directory(folder.parent, folder.name) as temporary:
                for file in self._files.find(place):
                    target = temporary / file.removeprefix(place.rstrip("/") + "/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._files.get_file(file, str(target))
                if damage := atomic.damage(temporary, listing):
                    with suppress(FileNotFoundError):  # without it the next push copies all anew
                        self._files.rm_file(f"{place}/{listing}")
                    raise StoreError(f"{self.url}: {name} is not whole ({damage}): run it again")
                atomic.replace_directory(temporary, folder)

    def _same(self, place: str, folder: Path, listing: str) -> bool:
        try:
            there: bytes = self._files.cat_file(f"{place}/{listing}")
        except FileNotFoundError:
            return False
        return there == (folder / listing).read_bytes()
