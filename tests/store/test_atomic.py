"""Files that appear whole or not at all, whoever is killed and whoever else writes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fmbseg.store.atomic import write_atomically

# Says when its temporary file is there, and stays in the middle of writing.
HALF = """
import os, sys, time
from pathlib import Path
from fmbseg.store import atomic
def stay(descriptor):
    print("half", flush=True)
    time.sleep(600)
os.fsync = stay
atomic.write_atomically(Path(sys.argv[1]), b"never whole")
"""


def test_what_a_killed_writer_left_is_gone_after_the_next(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    write_atomically(target, b"first")
    with subprocess.Popen(
        [sys.executable, "-c", HALF, str(target)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 2
    write_atomically(target, b"2nd")
    assert target.read_bytes() == b"2nd"
    assert list(tmp_path.iterdir()) == [target]


def test_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    texts = [bytes([65 + k]) * (200_000 + k) for k in range(8)]
    seen: list[bytes] = []

    def write(text: bytes) -> None:
        for _ in range(5):
            write_atomically(target, text)
            seen.append(target.read_bytes())

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 40
    assert set(seen) <= set(texts)
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    write_atomically(target, b"whole")
    assert target.read_bytes() == b"whole"
    assert target.stat().st_mode & 0o777 == 0o644


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        monkeypatch.undo()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "result.json", b"whole")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("locks", [True, False])
def test_a_file_has_all_its_bytes_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    target, replace, seen = tmp_path / "deep" / "er" / "result.json", os.replace, []

    def watch(source: Path, destination: Path) -> None:
        seen.append((Path(source).parent, Path(source).name[:12], Path(source).read_bytes()))
        replace(source, destination)

    def no_locks(descriptor: int, mode: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(os, "replace", watch)
    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    write_atomically(target, b"whole")
    assert seen == [(target.parent, ".fmbseg-tmp-", b"whole")]
    assert target.stat().st_mode & 0o777 == 0o644
