"""One file from the network: resumed where it broke off, checked, and there whole or not at all.

While it is fetched the file lies beside its place as `NAME.part`; `NAME.part.json` says what it is
part of, so that two versions of a file are never joined. `NAME.sha256` keeps the digest that the
server stated, where the caller knew none.
"""

from __future__ import annotations

import errno
import fcntl
import http
import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fmbseg import __version__
from fmbseg.errors import WeightsError
from fmbseg.machine.progress import Progress
from fmbseg.store.atomic import write_atomically
from fmbseg.store.digest import file_digest

__all__ = ["NotFoundError", "fetch", "stated_digest"]

_MIB = 2**20
_TIMEOUT = 60  # seconds without a byte
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class NotFoundError(WeightsError):
    """The server has no such file."""


def fetch(url: str, path: Path, sha256: str | None, progress: Progress) -> str | None:
    """Fetch `url` to `path`, going on where an earlier call was cut off.

    Args:
        url: http, https or file.
        path: of the finished file; its folder is made.
        sha256: of the file, hex, or its first digits; None: the one the server states, if it does
            (Hugging Face states it in its redirects).
        progress: in MiB.

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
        with _exclusive(partial) as stream:
            stated = _receive(url, stream, partial, progress)
            os.fsync(stream.fileno())
            wanted = sha256 or stated
            if wanted is not None and not (found := file_digest(partial)).startswith(wanted):
                _discard(partial)
                raise WeightsError(
                    f"what {url} gave is not the file wanted (sha256 {found[:12]}... instead of "
                    f"{wanted[:12]}...): try again later, or put the right file at {path}"
                )
            # Before the file has its name: a kill in between must not leave it unchecked for good.
            if stated is not None and sha256 is None:
                write_atomically(stated_digest(path), f"{stated}  {path.name}\n".encode())
            else:
                stated_digest(path).unlink(missing_ok=True)
            partial.replace(path)
        _origin(partial).unlink(missing_ok=True)
    except (OSError, http.client.HTTPException) as error:
        missing = (
            isinstance(error, urllib.error.HTTPError) and error.code == http.HTTPStatus.NOT_FOUND
        )
        kind = NotFoundError if missing else WeightsError
        raise kind(_explain(error, url, path, partial)) from error
    return wanted


def stated_digest(path: Path) -> Path:
    """Where the sha256 lies that the server stated of a fetched file; need not exist."""
    return path.with_name(f"{path.name}.sha256")


@contextmanager
def _exclusive(partial: Path) -> Iterator[IO[bytes]]:
    """The partial file opened for reading and writing, by one process at a time."""
    while True:
        with open(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WeightsError(
                    f"another process is fetching {partial.with_suffix('')}: wait for it"
                ) from error
            except OSError:
                pass  # a file system without locks
            # Between opening and locking, another process may have renamed it to its place.
            if _is_at(stream, partial):
                yield stream
                return


def _is_at(stream: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _receive(url: str, stream: IO[bytes], partial: Path, progress: Progress) -> str | None:
    """Bring the partial file to its full length; gives the sha256 that the server states."""
    reached = 0
    while True:
        start = stream.seek(0, os.SEEK_END)
        known = _read_origin(partial)
        if known.get("url") == url and known["total"] == start:
            return _stated(known)  # killed after the last byte
        with _ask(url, start, known) as answer:
            if answer.start != start:
                stream.truncate(answer.start)
                stream.seek(answer.start)
            _require_room(partial.parent, answer)
            # Before the first byte: after a kill the next call has to know what the bytes are of.
            write_atomically(_origin(partial), json.dumps(answer.origin).encode())
            ended = _copy(answer, stream, partial.with_suffix("").name, progress)
        end, total = stream.tell(), answer.origin["total"]
        if ended and total in (None, end):
            return _stated(answer.origin)
        if end <= reached or total is None:
            raise ConnectionError(f"the connection breaks off at byte {end} of {total or 'many'}")
        reached = end


@dataclass(frozen=True)
class _Answer:
    """A server's answer: the bytes from `start` on.

    Attributes:
        response: to read them from.
        start: offset of its first byte.
        origin: what the file is: its `url`, its `etag`, its length `total` and its `sha256`, the
            last three None where the server does not tell.
    """

    response: Any
    start: int
    origin: Mapping[str, Any]

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()


def _ask(url: str, start: int, known: Mapping[str, Any]) -> _Answer:
    """Ask for the file from byte `start` on, or as a whole where that could join two versions.

    Args:
        url: of the file.
        start: number of bytes that are here.
        known: the origin of those bytes.
    """
    headers = {"User-Agent": f"fmbseg/{__version__}", "Accept-Encoding": "identity"}
    if start and known.get("url") == url and known.get("etag"):
        # With If-Range a file that has changed since comes as a whole.
        headers |= {"Range": f"bytes={start}-", "If-Range": str(known["etag"])}
    hub = _HubHeaders()
    opener = urllib.request.build_opener(hub)
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or "Range" not in headers:
            raise
        return _ask(url, 0, {})  # the file has become shorter
    got = response.headers
    etag, length = got.get("ETag"), got.get("Content-Length")
    total = None if length is None else int(length)
    if response.status == http.client.PARTIAL_CONTENT:
        if etag != known["etag"]:
            # The server does not know If-Range: this is the rest of another version.
            response.close()
            return _ask(url, 0, {})
        stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", str(got.get("Content-Range")))
        if stated is None or int(stated[1]) != start:
            response.close()
            raise ConnectionError(f"the server gives {got.get('Content-Range')} for byte {start}")
        # The answer may be shorter than what was asked for.
        total = int(stated[2])
    else:
        start = 0
    origin = {
        "url": url,
        # A weak ETag does not promise equal bytes.
        "etag": None if etag is None or etag.startswith("W/") else etag,
        "total": total,
        "sha256": hub.sha256,
    }
    return _Answer(response, start, origin)


def _require_room(folder: Path, answer: _Answer) -> None:
    total = answer.origin["total"]
    if total is not None and shutil.disk_usage(folder).free < total - answer.start:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _HubHeaders(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the sha256 that Hugging Face states in its own."""

    sha256: str | None = None

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        stated = str(headers.get("X-Linked-Etag", "")).strip('"')
        # Of small files it states git's own digest, which is shorter.
        if re.fullmatch(r"[0-9a-f]{64}", stated):
            self.sha256 = stated
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _copy(answer: _Answer, stream: IO[bytes], name: str, progress: Progress) -> bool:
    """Write what comes; False: the connection broke."""
    total = answer.origin["total"]
    left = None if total is None else -(-(total - answer.start) // _MIB)
    before = f", after {answer.start // _MIB} that were here" if answer.start else ""
    with progress.task(f"{name} (MiB{before})", left) as task:
        try:
            while block := answer.response.read(_MIB):
                stream.write(block)
                task.advance(1)
        except (http.client.HTTPException, ConnectionError, TimeoutError):
            return False
        finally:
            stream.flush()
    return True


def _origin(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _stated(origin: Mapping[str, Any]) -> str | None:
    sha256 = origin["sha256"]
    return None if sha256 is None else str(sha256)


def _read_origin(partial: Path) -> dict[str, Any]:
    try:
        found = json.loads(_origin(partial).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    fields = {"url", "etag", "total", "sha256"}
    return found if isinstance(found, dict) and found.keys() == fields else {}


def _discard(partial: Path) -> None:
    partial.unlink()
    _origin(partial).unlink(missing_ok=True)


def _explain(error: Exception, url: str, path: Path, partial: Path) -> str:
    kept = _kept(partial)
    if getattr(error, "errno", None) in _NO_ROOM:
        return f"no room for {path.name} in {path.parent}{kept}: free some, or take another folder"
    if (
        isinstance(error, OSError)
        and not isinstance(error, urllib.error.URLError)
        and error.filename is not None
    ):
        return f"{error.filename}: {error.strerror}: take another folder"
    if isinstance(error, urllib.error.HTTPError):
        reason = f"{error.code} {error.reason}"
    else:
        reason = " ".join(str(getattr(error, "reason", error)).split())
    return (
        f"cannot fetch {url} ({reason}){kept}: try again, or bring that file here by other means "
        f"and put it at {path}"
    )


def _kept(partial: Path) -> str:
    try:
        size = partial.stat().st_size
    except OSError:
        return ""
    if not size:
        for path in (partial, _origin(partial)):
            path.unlink(missing_ok=True)
        return ""
    return f", {partial.name} keeps the first {size / 1e6:.1f} MB"
