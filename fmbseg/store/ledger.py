"""What was written into a user's folder, so that nothing else in it is ever replaced."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from fmbseg.errors import StoreError, shown
from fmbseg.store.atomic import temporary_directory, write_atomically
from fmbseg.store.digest import file_digest

#: The ledger's file; `sha256sum --check` reads it.
LEDGER = "fmbseg-results.sha256"


class Ledger:
    """The files of one folder that fmbseg wrote: a line for each, as `sha256sum` writes them.

    A file is known by its name and its content: one that was changed since is the user's. Several
    threads may write, each its own names; of several processes that write into one folder each
    knows the files of the others.

    Attributes:
        folder: need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, set[str]] = {}
        self._read = 0
        self._writing = Lock()
        self._read_on()

    @property
    def names(self) -> set[str]:
        """Names of the files that were written once."""
        return {*self._digests}

    def may_write(self, name: str) -> bool:
        """Whether there is no file of a name, or one that fmbseg wrote and nobody changed."""
        path = self.folder / name
        if not os.path.lexists(path):
            return True
        if path.is_symlink() or not path.is_file():
            return False
        digest = _digest(path)
        if digest not in self._digests.get(name, set()):
            # Another process may have written it since: its line was there before the file was.
            self._read_on()
        return digest in self._digests.get(name, set())

    def require(self, name: str) -> None:
        """Raise StoreError where `may_write` says no."""
        if not self.may_write(name):
            raise StoreError(
                f"{shown(self.folder / name)} is not by fmbseg, or was changed since: it stays as "
                "it is, choose another folder"
            )

    def write(self, name: str, data: bytes) -> None:
        """Write a file, atomically, in the place of one that fmbseg wrote or of none.

        Raises:
            StoreError: there is another file of that name; it stays as it is.
        """
        self.require(name)
        self._note(name, hashlib.sha256(data).hexdigest())
        write_atomically(self.folder / name, data)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """The same for a file that is written bit by bit: a place that gets its name at the end.

        Nothing of it stays where the block ends with an error.
        """
        self.require(name)
        with temporary_directory(self.folder, "file") as place:
            yield place / name
            self._note(name, file_digest(place / name))
            os.replace(place / name, self.folder / name)

    def _read_on(self) -> None:
        """Read the whole lines that were added since the last time."""
        with self._writing:
            try:
                with (self.folder / LEDGER).open("rb") as stream:
                    stream.seek(self._read)
                    for line in stream:
                        if not line.endswith(b"\n"):
                            break  # cut off, or just being written
                        self._read += len(line)
                        digest, _, name = os.fsdecode(line.rstrip(b"\n")).partition("  ")
                        self._digests.setdefault(name, set()).add(digest)
            except OSError:
                pass  # there is none: nothing in the folder is known

    def _note(self, name: str, digest: str) -> None:
        # Before the file: one that a kill left without its line would be taken for the user's.
        with self._writing:
            if digest in self._digests.setdefault(name, set()):
                return
            with (self.folder / LEDGER).open("ab+") as stream:
                if size := stream.tell():
                    stream.seek(size - 1)
                    if stream.read() != b"\n":  # a line that was cut off
                        stream.write(b"\n")
                stream.write(os.fsencode(f"{digest}  {name}\n"))
            self._digests[name].add(digest)


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        return ""
