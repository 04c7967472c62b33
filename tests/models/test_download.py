"""Fetching from a real server on this machine, in one go and in every way it can go wrong."""

from __future__ import annotations

import fcntl
import hashlib
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from fmbseg.errors import WeightsError
from fmbseg.models import download
from fmbseg.models.download import NotFoundError, fetch, stated_digest
from tests.models.local_hub import Hub, running_hub

CONTENT = random.Random(0).randbytes(3 * 2**20 + 77)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PIECE = 2**16
HALF = 24 * PIECE


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Files are written in pieces of 10 MB otherwise, of which this one would be a part.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
    with running_hub() as hub:
        hub.files["/sam.pth"] = CONTENT
        yield hub


def _fetch(hub: Hub, path: Path, sha256: str | None = DIGEST) -> str | None:
    return fetch(f"{hub.url}/sam.pth", path, sha256)


def _refused(hub: Hub, path: Path, sha256: str | None = DIGEST) -> str:
    with pytest.raises(WeightsError) as caught:
        _fetch(hub, path, sha256)
    message = str(caught.value)
    assert "\n" not in message
    assert not path.exists()
    return message


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "sam.pth"


def _only(path: Path) -> bool:
    return [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_is_fetched_whole_and_leaves_nothing_else(hub: Hub, target: Path) -> None:
    assert _fetch(hub, target) == DIGEST
    assert target.read_bytes() == CONTENT
    assert _only(target)
    assert hub.asked == [("/sam.pth", None)]


def test_a_killed_fetch_goes_on_where_it_was(
    hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.breaks, hub.stall = [HALF], True
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    code = (
        "import sys; from pathlib import Path; from huggingface_hub import constants; "
        f"constants.DOWNLOAD_CHUNK_SIZE = {PIECE}; from fmbseg.models.download import fetch; "
        "fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, f"{hub.url}/sam.pth", target, DIGEST])
    partial = target.with_name("sam.pth.part")
    deadline = time.monotonic() + 60
    while not partial.exists() or partial.stat().st_size < 2**20:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = partial.stat().st_size
    assert 2**20 <= kept <= HALF
    assert not target.exists()
    _fetch(hub, target)
    assert hub.asked == [("/sam.pth", None), ("/sam.pth", f"bytes={kept}-")]
    assert target.read_bytes() == CONTENT
    assert _only(target)


def test_a_fetch_killed_after_the_last_byte_asks_for_none(hub: Hub, target: Path) -> None:
    _fetch(hub, target)
    # As a kill just before the last renaming leaves it.
    target.rename(target.with_name("sam.pth.part"))
    hub.asked.clear()
    assert _fetch(hub, target) == DIGEST
    assert hub.asked == []
    assert target.read_bytes() == CONTENT


def test_a_broken_connection_is_taken_up_again(hub: Hub, target: Path) -> None:
    hub.breaks = [HALF, PIECE + 1000]
    _fetch(hub, target)
    offsets = (HALF, HALF + PIECE)
    assert [wanted for _, wanted in hub.asked] == [None, *(f"bytes={n}-" for n in offsets)]
    assert target.read_bytes() == CONTENT


def test_a_server_that_gives_no_more_is_given_up_and_the_part_kept(
    hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the tries
    hub.breaks = [HALF, *[0] * 9]
    message = _refused(hub, target)
    assert message.startswith(f"cannot fetch {hub.url}/sam.pth (")
    assert f"put it at {target}" in message
    hub.breaks.clear()
    hub.asked.clear()
    _fetch(hub, target)
    assert hub.asked == [("/sam.pth", f"bytes={HALF}-")]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("newer", [CONTENT[::-1], b"short"])
def test_two_versions_of_a_file_are_never_joined(hub: Hub, target: Path, newer: bytes) -> None:
    target.parent.mkdir()
    target.with_name("sam.pth.part").write_bytes(CONTENT[:HALF])
    hub.files["/sam.pth"] = newer
    _fetch(hub, target, None)  # nobody states what the file ought to be
    assert target.read_bytes() == newer
    # Where its sha256 is known, the joined file is not kept, and the next call starts over.
    target.unlink()
    target.with_name("sam.pth.part").write_bytes(CONTENT[:HALF])
    digest = hashlib.sha256(newer).hexdigest()
    if len(newer) > HALF:
        assert "is not the file wanted" in _refused(hub, target, digest)
    assert _fetch(hub, target, digest) == digest
    assert target.read_bytes() == newer


def test_a_server_without_ranges_starts_over(hub: Hub, target: Path) -> None:
    hub.ranges = False
    hub.breaks = [HALF]
    _fetch(hub, target)
    assert len(hub.asked) == 2
    assert target.read_bytes() == CONTENT


def test_another_file_than_the_pinned_one_is_not_kept(hub: Hub, target: Path) -> None:
    message = _refused(hub, target, "0" * 64)
    assert f"sha256 {DIGEST[:12]}... instead of 000000000000..." in message
    assert list(target.parent.iterdir()) == []


def test_the_first_digits_of_a_digest_are_checked(hub: Hub, target: Path) -> None:
    assert "is not the file wanted" in _refused(hub, target, "0" * 8)
    assert list(target.parent.iterdir()) == []
    assert _fetch(hub, target, DIGEST[:8]) == DIGEST[:8]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("right", [True, False])
def test_the_digest_that_a_hub_states_is_checked(hub: Hub, target: Path, right: bool) -> None:
    stated = DIGEST if right else "0" * 64
    hub.redirects["/model"] = ("/sam.pth", {"X-Linked-Etag": f'"{stated}"'})
    if right:
        assert fetch(f"{hub.url}/model", target, None) == DIGEST
        assert target.read_bytes() == CONTENT
    else:
        with pytest.raises(WeightsError, match="is not the file wanted"):
            fetch(f"{hub.url}/model", target, None)
        assert not target.exists()


def test_what_a_hub_stated_is_kept_beside_its_file_and_goes_with_it(hub: Hub, target: Path) -> None:
    hub.redirects["/model"] = ("/sam.pth", {"X-Linked-Etag": f'"{DIGEST}"'})
    fetch(f"{hub.url}/model", target, None)
    assert stated_digest(target).read_text().split() == [DIGEST, "sam.pth"]
    hub.files["/sam.pth"] = b"another version, from a mirror that states nothing"
    _fetch(hub, target, None)
    assert _only(target)


def test_a_full_disk_is_one_line(hub: Hub, target: Path) -> None:
    target.parent.mkdir()
    # Writing to this device fails as on a full disk.
    target.with_name("sam.pth.part").symlink_to("/dev/full")
    message = _refused(hub, target)
    assert message.startswith(f"no room for sam.pth in {target.parent}")


def test_a_file_larger_than_the_disk_or_than_the_registry_says_is_not_begun(
    hub: Hub, target: Path
) -> None:
    with pytest.raises(WeightsError, match=r"is not the file wanted \(3 MB instead of 1\)"):
        fetch(f"{hub.url}/sam.pth", target, DIGEST, megabytes=1.0)
    hub.length = 2**60
    assert _refused(hub, target) == (
        f"no room for sam.pth in {target.parent}: free some, or take another folder"
    )
    assert hub.asked == []


def test_without_network_one_line_says_what_to_bring_and_where_to_put_it(
    hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/sam.pth"
        with pytest.raises(WeightsError) as caught:
            fetch(url, target, DIGEST)
    assert str(caught.value) == (
        f"cannot fetch {url} ([Errno 111] Connection refused): try again, what came is kept; or "
        f"bring that file here by other means and put it at {target}"
    )
    assert list(target.parent.iterdir()) == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "please unset the `HF_HUB_OFFLINE` environment variable" in _refused(hub, target)


def test_a_missing_file_and_a_folder_that_cannot_be_made(hub: Hub, target: Path) -> None:
    del hub.files["/sam.pth"]
    assert "404" in _refused(hub, target)
    with pytest.raises(NotFoundError):
        _fetch(hub, target)
    blocked = target.parent / "file"
    blocked.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"take another folder"):
        fetch(f"{hub.url}/sam.pth", blocked / "sam.pth", None)


def test_two_processes_do_not_write_one_file(hub: Hub, target: Path) -> None:
    target.parent.mkdir()
    with target.with_name("sam.pth.part").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert f"another process is fetching {target}: wait for it" in _refused(hub, target)
    _fetch(hub, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(("megabytes", "bound"), [(2.0, 3_000_000), (None, 5_000_000)])
def test_an_answer_without_an_end_is_not_taken_in_for_ever(
    megabytes: float | None, bound: int, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            with suppress(OSError):
                while True:
                    self.wfile.write(bytes(PIECE))

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
    monkeypatch.setattr(download, "_LARGEST", 5_000_000)
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/sam.pth"
        with pytest.raises(WeightsError, match=f"more than {bound // 1_000_000} MB came"):
            fetch(url, target, None, megabytes)
        server.shutdown()
    assert not target.exists()
    assert sum(path.stat().st_size for path in target.parent.iterdir()) == 0
