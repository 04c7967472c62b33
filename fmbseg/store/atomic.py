"""Folders that appear whole or not at all, and the listing that shows later damage."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fmbseg.errors import StoreError
from fmbseg.store.digest import file_digest, json_digest

_TEMPORARY = ".fmbseg-tmp-"
_DIGEST = "digest"  # of a listing's other fields, and in front of a file that has one of itself
# It can be asked for only by setting it, which other threads would notice later on.
_UMASK = os.umask(0o077)
os.umask(_UMASK)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def temporary_directory(parent: Path, name: str) -> Iterator[Path]:
    """A folder beside its final place, removed at the end unless it was renamed.

    While the block runs the folder is locked; the lock dies with the process, so
    `remove_abandoned` can tell what a killed process left from what is being written.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with lock(parent, fcntl.LOCK_SH):
            path = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{name}-", dir=parent))
            held.callback(shutil.rmtree, path, ignore_errors=True)
            held.enter_context(lock(path))
        path.chmod(0o777 & ~_UMASK)  # mkdtemp's 0700 would end up in a published out
        yield path


def remove_abandoned(parent: Path) -> None:
    """Remove the temporary files and folders in `parent` whose writer is dead."""
    if not parent.is_dir():
        return
    with lock(parent, fcntl.LOCK_EX):
        for path in parent.glob(f"{_TEMPORARY}*"):
            with suppress(OSError):  # it is gone, or its writer lives
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()
                finally:
                    os.close(descriptor)


def replace_directory(source: Path, destination: Path) -> None:
    """Rename `source` to `destination`, which may exist; both on one file system.

    Where the system can exchange two names at once, who reads sees the old folder or the new one;
    elsewhere none for a moment. Of several that do so at once the last one stays.
    """
    while not _renamed(source, destination):
        # A folder that is not empty cannot be renamed over: the old one steps aside first.
        with temporary_directory(destination.parent, "old") as aside:
            if _exchange(source, destination):
                os.rename(source, aside / destination.name)
                break
            with suppress(FileNotFoundError):  # another process has taken it away
                os.rename(destination, aside / destination.name)
    _sync(destination.parent)


def _renamed(source: Path, destination: Path) -> bool:
    """Whether a name was free, or of an empty folder, and a folder has it now."""
    try:
        os.rename(source, destination)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names at once; False: this system or file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    done = call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE))
    return bool(done == 0)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all; missing folders are made.

    What a killed writer left beside it is gone when the file has been written again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = _temporary_file(path)
    with os.fdopen(descriptor, "wb") as stream:  # closed, and so unlocked, when it has its name
        try:
            stream.truncate()
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            os.chmod(temporary, 0o666 & ~_UMASK)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    _sync(path.parent)


def _temporary_file(path: Path) -> tuple[int, Path]:
    """A locked file beside `path`: a dead writer's is taken over, a living one's waited for."""
    # Not the name itself, which may be as long as names can be.
    temporary = path.with_name(_TEMPORARY + hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16])
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), temporary.stat()):
                return descriptor, temporary
        except FileNotFoundError:
            pass  # the writer that was waited for has given it its name
        except OSError:  # a file system without locks: a name of one's own
            os.close(descriptor)
            own, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
            return own, Path(name)
        os.close(descriptor)


def contents(directory: Path, listing: str) -> list[str]:
    """The files below a folder, without its listing: sorted relative POSIX paths."""
    files = (path for path in directory.rglob("*") if path.is_file())
    names = (path.relative_to(directory).as_posix() for path in files)
    return sorted(name for name in names if name != listing)


def seal(directory: Path, listing: str, header: Mapping[str, Any]) -> None:
    """Bring a folder to disk and list its files (size, sha256) in it, the listing last."""
    files = {}
    folders = {directory}
    for name in contents(directory, listing):
        path = directory / name
        files[name] = {"size": path.stat().st_size, "sha256": file_digest(path)}
        folders.add(path.parent)
        _sync(path)
    record = {**header, "files": files}
    record[_DIGEST] = json_digest(record)
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
    (directory / listing).write_text(text + "\n", encoding="utf-8")
    _sync(directory / listing)
    for folder in folders:
        _sync(folder)


def read_listing(directory: Path, listing: str) -> dict[str, Any] | None:
    """What `seal` has written; None: it is not there, or not as it was written."""
    try:
        record = json.loads((directory / listing).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    digest = record.pop(_DIGEST, None)
    try:
        return record if digest == json_digest(record) else None
    except ValueError:  # a number that JSON has no form for
        return None


def write_checked(path: Path, data: bytes) -> None:
    """Write a file with its own sha256 in front, whole or not at all; see `read_checked`."""
    write_atomically(path, hashlib.sha256(data).digest() + data)


def read_checked(path: Path) -> bytes:
    """What `write_checked` wrote.

    Raises:
        OSError: it cannot be read.
        StoreError: it is not as it was written.
    """
    content = path.read_bytes()
    data = content[hashlib.sha256().digest_size :]
    if hashlib.sha256(data).digest() != content[: hashlib.sha256().digest_size]:
        raise StoreError(f"{path} is damaged: remove it")
    return data


def damage(directory: Path, listing: str) -> str | None:
    """What is wrong with a sealed folder, or None when every file is as listed."""
    record = read_listing(directory, listing)
    if record is None:
        return f"{listing} is missing or damaged"
    expected = {name: (item["size"], item["sha256"]) for name, item in record["files"].items()}
    present = set(contents(directory, listing))
    if present != set(expected):
        return f"{min(present ^ set(expected))} is missing or not listed"
    for name, (size, sha256) in expected.items():
        path = directory / name
        if path.stat().st_size != size or file_digest(path) != sha256:
            return f"{name} has changed"
    return None


@contextmanager
def lock(directory: Path, mode: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a folder's advisory lock; where the file system has none, nothing is held.

    Nothing is swept there either, see `remove_abandoned`.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
