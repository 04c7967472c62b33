"""Fetching from a real server on this machine, in one go and in every way it can go wrong."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from fmbseg.errors import WeightsError
from fmbseg.machine.progress import LineProgress, silent_progress
from fmbseg.models.download import NotFoundError, fetch, stated_digest
from tests.models.local_hub import Hub, running_hub

CONTENT = random.Random(0).randbytes(3 * 2**20 + 77)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        hub.files["/sam.pth"] = CONTENT
        yield hub


def _fetch(hub: Hub, path: Path, sha256: str | None = DIGEST) -> str | None:
    return fetch(f"{hub.url}/sam.pth", path, sha256, silent_progress())


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


def test_a_killed_fetch_goes_on_where_it_was(hub: Hub, target: Path) -> None:
    hub.breaks, hub.stall = [HALF], True
    code = (
        "import sys; from pathlib import Path; from fmbseg.models.download import fetch; "
        "from fmbseg.machine.progress import silent_progress; "
        "fetch(sys.argv[1], Path(sys.argv[2]), None, silent_progress())"
    )
    process = subprocess.Popen([sys.executable, "-c", code, f"{hub.url}/sam.pth", target])
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


def test_a_fetch_killed_after_the_last_byte_asks_for_nothing(hub: Hub, target: Path) -> None:
    _fetch(hub, target)
    # As a kill just before the last renaming leaves it.
    origin = f'{{"url": "{hub.url}/sam.pth", "etag": "x", "total": {len(CONTENT)}, "sha256": null}}'
    target.rename(target.with_name("sam.pth.part"))
    target.with_name("sam.pth.part.json").write_text(origin)
    hub.asked.clear()
    assert _fetch(hub, target) == DIGEST
    assert hub.asked == []
    assert target.read_bytes() == CONTENT


def test_a_broken_connection_is_taken_up_again(hub: Hub, target: Path) -> None:
    hub.breaks = [HALF, 1000, 70_000]
    _fetch(hub, target)
    offsets = (HALF, HALF + 1000, HALF + 71_000)
    assert [wanted for _, wanted in hub.asked] == [None, *(f"bytes={n}-" for n in offsets)]
    assert target.read_bytes() == CONTENT


def test_a_server_that_gives_no_more_is_given_up_and_the_part_kept(hub: Hub, target: Path) -> None:
    hub.breaks = [HALF, 0]
    message = _refused(hub, target)
    assert f"cannot fetch {hub.url}/sam.pth (the connection breaks off at byte {HALF}" in message
    assert "sam.pth.part keeps the first 1.6 MB" in message
    assert f"put it at {target}" in message
    hub.asked.clear()
    _fetch(hub, target)
    assert hub.asked == [("/sam.pth", f"bytes={HALF}-")]
    assert target.read_bytes() == CONTENT


def test_two_versions_of_a_file_are_never_joined(hub: Hub, target: Path) -> None:
    hub.breaks = [HALF, 0]
    _refused(hub, target, None)
    newer = CONTENT[::-1]
    hub.files["/sam.pth"] = newer
    _fetch(hub, target, None)
    assert target.read_bytes() == newer
    # The same with a new version that is shorter than what is here, and from another address.
    for path, content in (("/sam.pth", b"short"), ("/moved.pth", CONTENT)):
        target.unlink()
        hub.files["/sam.pth"], hub.breaks = newer, [HALF, 0]
        _refused(hub, target, None)
        hub.files[path] = content
        fetch(hub.url + path, target, None, silent_progress())
        assert target.read_bytes() == content


def test_the_rest_of_another_version_is_not_joined_either(hub: Hub, target: Path) -> None:
    hub.breaks = [HALF, 0]
    _refused(hub, target, None)
    hub.if_range = False
    newer = CONTENT[::-1]
    hub.files["/sam.pth"] = newer
    hub.asked.clear()
    _fetch(hub, target, None)
    assert hub.asked == [("/sam.pth", f"bytes={HALF}-"), ("/sam.pth", None)]
    assert target.read_bytes() == newer


def test_a_file_that_has_become_shorter_than_what_is_here_comes_anew(
    hub: Hub, target: Path
) -> None:
    hub.breaks = [HALF, 0]
    _refused(hub, target, None)
    hub.if_range = False  # so the server is asked for what it has not: 416
    hub.files["/sam.pth"] = b"short"
    hub.asked.clear()
    _fetch(hub, target, None)
    assert hub.asked == [("/sam.pth", f"bytes={HALF}-"), ("/sam.pth", None)]
    assert target.read_bytes() == b"short"


def test_a_file_system_without_locks_is_no_hindrance(
    hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    _fetch(hub, target, None)
    assert target.read_bytes() == CONTENT


def test_what_a_hub_stated_is_kept_beside_its_file_and_goes_with_it(hub: Hub, target: Path) -> None:
    hub.redirects["/model"] = ("/sam.pth", {"X-Linked-Etag": f'"{DIGEST}"'})
    fetch(f"{hub.url}/model", target, None, silent_progress())
    assert stated_digest(target).read_text().split() == [DIGEST, "sam.pth"]
    hub.files["/sam.pth"] = b"another version, from a mirror that states nothing"
    _fetch(hub, target, None)
    assert _only(target)


def test_an_answer_that_is_shorter_than_the_rest_is_not_the_end(hub: Hub, target: Path) -> None:
    hub.breaks, hub.most = [HALF], 2**20
    _fetch(hub, target, None)
    assert [wanted for _, wanted in hub.asked] == [
        None,
        f"bytes={HALF}-",
        f"bytes={HALF + 2**20}-",
    ]
    assert target.read_bytes() == CONTENT


def test_a_server_without_versions_starts_over(hub: Hub, target: Path) -> None:
    hub.etags = False
    hub.breaks = [HALF]
    _fetch(hub, target)
    assert hub.asked == [("/sam.pth", None)] * 2
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
        assert fetch(f"{hub.url}/model", target, None, silent_progress()) == DIGEST
        assert target.read_bytes() == CONTENT
    else:
        with pytest.raises(WeightsError, match="is not the file wanted"):
            fetch(f"{hub.url}/model", target, None, silent_progress())
        assert not target.exists()


def test_a_full_disk_is_one_line(hub: Hub, target: Path) -> None:
    target.parent.mkdir()
    # Writing to this device fails as on a full disk.
    target.with_name("sam.pth.part").symlink_to("/dev/full")
    message = _refused(hub, target)
    assert message.startswith(f"no room for sam.pth in {target.parent}")


def test_a_file_larger_than_the_disk_is_not_begun(hub: Hub, target: Path) -> None:
    hub.length = 2**60
    assert _refused(hub, target) == (
        f"no room for sam.pth in {target.parent}: free some, or take another folder"
    )
    assert list(target.parent.iterdir()) == []


def test_without_network_one_line_says_what_to_bring_and_where_to_put_it(target: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/sam.pth"
        with pytest.raises(WeightsError) as caught:
            fetch(url, target, DIGEST, silent_progress())
    assert str(caught.value) == (
        f"cannot fetch {url} ([Errno 111] Connection refused): try again, or bring that file here "
        f"by other means and put it at {target}"
    )
    assert list(target.parent.iterdir()) == []


def test_a_missing_file_and_a_folder_that_cannot_be_made(hub: Hub, target: Path) -> None:
    del hub.files["/sam.pth"]
    assert "(404 Not Found)" in _refused(hub, target)
    with pytest.raises(NotFoundError):
        _fetch(hub, target)
    blocked = target.parent / "file"
    blocked.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"take another folder"):
        fetch(f"{hub.url}/sam.pth", blocked / "sam.pth", None, silent_progress())


def test_two_processes_do_not_write_one_file(hub: Hub, target: Path) -> None:
    target.parent.mkdir()
    with target.with_name("sam.pth.part").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert f"another process is fetching {target}: wait for it" in _refused(hub, target)
    _fetch(hub, target)
    assert target.read_bytes() == CONTENT


def test_a_partial_file_that_another_process_finished_meanwhile_is_left_alone(
    hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, finished = target.with_name("sam.pth.part"), target.with_name("finished")
    lock, calls = fcntl.flock, []

    def late(stream: IO[bytes], how: int) -> None:
        # The other process renames the file after this one has opened it.
        calls.append(how)
        if len(calls) == 1:
            partial.write_bytes(b"whole")
            partial.rename(finished)
        lock(stream, how)

    monkeypatch.setattr(fcntl, "flock", late)
    _fetch(hub, target)
    assert calls.count(fcntl.LOCK_EX | fcntl.LOCK_NB) == 2
    assert finished.read_bytes() == b"whole"
    assert target.read_bytes() == CONTENT


def test_progress_counts_what_is_left_with_an_eta(hub: Hub, target: Path) -> None:
    hub.breaks = [2**20, 0]
    _refused(hub, target)
    ticks = iter(range(1000))
    shown = io.StringIO()
    progress = LineProgress(shown, interval=1, clock=lambda: float(next(ticks)))
    fetch(f"{hub.url}/sam.pth", target, DIGEST, progress)
    lines = shown.getvalue().splitlines()
    assert lines[0] == "sam.pth (MiB, after 1 that were here): 1/3, 1.0/s, ETA 0:02"
    assert lines[-1].startswith("sam.pth (MiB, after 1 that were here): 3/3")
