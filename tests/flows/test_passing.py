"""Errors of connections and storages that may pass: tried again, in the end one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import aiohttp
import httpx
import pytest

from flows import common
from flows.common import is_transient
from flows.scale import _exchange
from flows.shared import SharedStorage
from fmbseg.data.images import read_image
from fmbseg.errors import StoreError
from fmbseg.store import atomic


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("disconnected"),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError("cut off"),
    ],
)
def test_connections_may_come_back(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error", [httpx.UnsupportedProtocol("ftp"), httpx.InvalidURL("x"), aiohttp.InvalidURL("x")]
)
def test_a_wrong_address_stays_wrong(error: Exception) -> None:
    assert not is_transient(error)


def test_a_picture_on_a_failing_disk_is_tried_again(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.symlink_to("/proc/self/mem")  # a real input/output error
    with pytest.raises(OSError, match="Input/output error") as raised:
        read_image(picture)
    assert is_transient(raised.value)
    picture.unlink()
    picture.write_bytes(b"no picture")
    with pytest.raises(Exception, match="replace or remove it") as raised_for_good:
        read_image(picture)
    assert not is_transient(raised_for_good.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "values").write_text("values")
    atomic.seal(folder, "listing.json", {})
    return folder


def _failing(times: int, error: Exception, work: Callable[[], None]) -> Callable[[], None]:
    left = [error] * times

    def tried() -> None:
        if left:
            raise left.pop()
        work()

    return tried


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which the tests do without."""
    waits: list[float] = []
    monkeypatch.setattr(common.time, "sleep", waits.append)
    monkeypatch.setattr(common, "RETRY_JITTER", 0.0)
    return waits


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, os.strerror(errno.EIO)), aiohttp.ServerDisconnectedError()]
)
def test_the_storage_is_asked_again(
    folder: Path, tmp_path: Path, waits: list[float], error: Exception
) -> None:
    storage = SharedStorage(str(tmp_path / "shared"))
    push = partial(storage.push, folder, "outs/a", "listing.json")
    _exchange(storage, _failing(2, error, push))
    assert waits == [2, 4]
    assert (tmp_path / "shared" / "outs" / "a" / "values").read_text() == "values"

    with pytest.raises(StoreError, match=r"shared failed 4 times in a row \(.+\): run it again"):
        _exchange(storage, _failing(4, error, push))
    assert waits == [2, 4, 2, 4, 8]


def test_what_stays_is_one_line_at_once(folder: Path, tmp_path: Path, waits: list[float]) -> None:
    (tmp_path / "shared").write_text("a file where the storage should be")
    storage = SharedStorage(str(tmp_path / "shared"))
    with pytest.raises(StoreError, match="shared failed"):
        _exchange(storage, partial(storage.push, folder, "outs/a", "listing.json"))
    with pytest.raises(ZeroDivisionError):
        _exchange(storage, _failing(1, ZeroDivisionError(), lambda: None))
    assert waits == []
