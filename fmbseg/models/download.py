"""One file from the network by huggingface_hub: resumed, checked, and there whole or not at all.

While it is fetched the file lies beside its place as `NAME.part`. `NAME.sha256` keeps the digest
that the server stated, where the caller knew none.
"""

from __future__ import annotations

import errno
import fcntl
import http
import os
import re
import shutil
from pathlib import Path
from typing import Any, BinaryIO, cast

from fmbseg.errors import WeightsError
from fmbseg.store.atomic import write_atomically
from fmbseg.store.digest import file_digest

# Bytes: of a file whose size nobody states, larger than the largest encoder's; and of a disk.
_LARGEST = 10_000_000_000
_SPARED = 1_000_000_000
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class NotFoundError(WeightsError):
    """The server has no such file."""


def fetch(url: str, path: Path, sha256: str | None, megabytes: float | None = None) -> str | None:
    """Fetch `url` to `path`, going on where an earlier call was cut off; with a progress bar.

    Args:
        url: http or https, of Hugging Face's hub or of any server.
        path: of the finished file; its folder is made.
        sha256: of the file, hex, or its first digits; None: the one the server states, if it does
            (the hub does).
        megabytes: size of the file, 10^6 bytes, where it is known: a larger one is not begun, and
            no more is taken of an answer that does not state its length.

    Returns:
        The sha256 the file was checked against; None: nobody stated one.

    Raises:
        NotFoundError: the server answers that it has no such file.
        WeightsError: no answer, no room, or not the file that was asked for. What came in so far is
            kept, unless it is not part of the file.
    """
    partial = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only now: content keys, which need no network, come by this module.
        from huggingface_hub.file_download import get_hf_file_metadata

        about = get_hf_file_metadata(url, token=False)  # a token is for its hub alone
        # Of small files the hub states git's own digest, which is shorter.
        stated = about.etag if re.fullmatch("[0-9a-f]{64}", about.etag or "") else None
        wanted = sha256 or stated
        if megabytes and about.size and about.size > (megabytes + 1) * 1e6:
            raise _not_wanted(url, path, f"{about.size / 1e6:.0f} MB instead of {megabytes:.0f}")
        most = int((megabytes + 1) * 1e6) if megabytes else _LARGEST
        _receive(url, path, partial, about.size, most, known=wanted is not None)
        if wanted is not None and not (found := file_digest(partial)).startswith(wanted):
            partial.unlink()
            raise _not_wanted(url, path, f"sha256 {found[:12]}... instead of {wanted[:12]}...")
        # Before the file has its name: a kill in between must not leave it unchecked for good.
        if sha256 is None and stated is not None:
            write_atomically(stated_digest(path), f"{stated}  {path.name}\n".encode())
        else:
            stated_digest(path).unlink(missing_ok=True)
        partial.replace(path)
    except WeightsError:
        raise
    except Exception as error:  # huggingface_hub's own, its HTTP client's, and the disk's
        response = getattr(error, "response", None)
        missing = getattr(response, "status_code", None) == http.HTTPStatus.NOT_FOUND
        raise (NotFoundError if missing else WeightsError)(_explain(error, url, path)) from error
    return wanted


def stated_digest(path: Path) -> Path:
    """Where the sha256 lies that the server stated of a fetched file; need not exist."""
    return path.with_name(f"{path.name}.sha256")


class _Bounded:
    """A file that takes a number of bytes and no more; an answer may have no end.

    Args:
        stream: is written to.
        most: its largest size.
    """

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._stream, self._most = stream, most

    def write(self, data: bytes) -> int:
        """Write; raises _EndlessError where the file would become too large."""
        if self._stream.seek(0, os.SEEK_END) + len(data) > self._most:
            raise _EndlessError
        return self._stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _EndlessError(Exception):
    """More came than the file can have."""


def _receive(url: str, path: Path, partial: Path, size: int | None, most: int, known: bool) -> None:
    """Bring the partial file to its full size, if it is known; by one process at a time."""
    with partial.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WeightsError(f"another process is fetching {path}: wait for it") from error
        except OSError:
            pass  # a file system without locks
        here = stream.tell()
        if not known or size is None or here > size:
            here = stream.truncate(0)  # nothing would tell that two versions were joined
        free = shutil.disk_usage(path.parent).free
        if size is not None and free < size - here:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        from huggingface_hub.file_download import http_get

        # Of a file whose size nobody states, room for other work is left on the disk.
        bound = size if size is not None else min(most, here + max(0, free - _SPARED))
        into = cast(BinaryIO, _Bounded(stream, bound))
        try:
            http_get(url, into, resume_size=here, expected_size=size, displayed_filename=path.name)
        except _EndlessError as error:
            stream.truncate(0)
            raise _not_wanted(url, path, f"more than {bound / 1e6:.0f} MB came") from error
        stream.flush()
        os.fsync(stream.fileno())


def _not_wanted(url: str, path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"what {url} gives is not the file wanted ({reason}): try again later, or put the right "
        f"file at {path}"
    )


def _explain(error: Exception, url: str, path: Path) -> str:
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return f"no room for {path.name} in {path.parent}: free some, or take another folder"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}: take another folder"
    reason = str(error).strip().partition("\n")[0]
    return (
        f"cannot fetch {url} ({reason}): try again, what came is kept; or bring that file here by "
        f"other means and put it at {path}"
    )
