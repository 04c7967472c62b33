"""Sealed folders, temporary ones, and files with a digest of their own."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fmbseg.errors import StoreError
from fmbseg.store import atomic
from fmbseg.store.digest import json_digest

LISTING = "listing.json"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "two").write_bytes(b"22")
    (folder / "one").write_bytes(b"1")
    atomic.seal(folder, LISTING, {"name": "caf\xe9"})
    return folder


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is brought to disk from here on, by path."""
    found: list[str] = []

    def fsync(descriptor: int) -> None:
        found.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file system that has none."""

    def flock(descriptor: int, mode: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def held(path: Path, mode: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)


def test_a_listing_names_each_file_with_size_and_digest(sealed: Path) -> None:
    text = (sealed / LISTING).read_text(encoding="utf-8")
    record = json.loads(text)
    digest = record.pop("digest")
    assert record == {
        "name": "caf\xe9",
        "files": {
            "a/b/two": {"size": 2, "sha256": hashlib.sha256(b"22").hexdigest()},
            "one": {"size": 1, "sha256": hashlib.sha256(b"1").hexdigest()},
        },
    }
    assert digest == json_digest(record)
    # A person reads it, and a diff shows it: a line a value, sorted, letters as they are.
    again = json.dumps(record | {"digest": digest}, indent=1, sort_keys=True, ensure_ascii=False)
    assert text == again + "\n"
    assert atomic.read_listing(sealed, LISTING) == record
    assert atomic.contents(sealed, LISTING) == ["a/b/two", "one"]


def test_what_is_sealed_is_on_disk_with_its_folders(tmp_path: Path, synced: list[str]) -> None:
    folder = tmp_path / "out"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "two").write_bytes(b"22")
    atomic.seal(folder, LISTING, {})
    names = {folder / "a" / "b" / "two", folder / LISTING, folder, folder / "a" / "b"}
    assert set(synced) == set(map(str, names))
    assert synced.index(str(folder / LISTING)) == 1  # after the files that it lists


def test_each_damage_is_named(sealed: Path) -> None:
    assert atomic.damage(sealed, LISTING) is None
    (sealed / "one").write_bytes(b"2")
    assert atomic.damage(sealed, LISTING) == "one has changed"
    (sealed / "one").write_bytes(b"10")
    assert atomic.damage(sealed, LISTING) == "one has changed"
    (sealed / "one").write_bytes(b"1")
    (sealed / "more").write_bytes(b"")
    assert atomic.damage(sealed, LISTING) == "more is missing or not listed"
    (sealed / "more").unlink()
    (sealed / "a" / "b" / "two").unlink()
    assert atomic.damage(sealed, LISTING) == "a/b/two is missing or not listed"
    (sealed / LISTING).unlink()
    assert atomic.damage(sealed, LISTING) == f"{LISTING} is missing or damaged"


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"digest": null}', "[" * 100_000, '{"a": NaN, "digest": 1}']
)
def test_a_listing_that_is_none_is_no_listing(sealed: Path, text: str) -> None:
    (sealed / LISTING).write_text(text)
    assert atomic.read_listing(sealed, LISTING) is None


def test_a_listing_that_was_edited_is_none(sealed: Path) -> None:
    path = sealed / LISTING
    record: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps(record))
    assert atomic.read_listing(sealed, LISTING) is not None  # its form is no matter
    path.write_text(json.dumps(record | {"name": "tea"}))
    assert atomic.read_listing(sealed, LISTING) is None


def test_a_temporary_folder_is_locked_and_goes_whatever_happens(tmp_path: Path) -> None:
    parent = tmp_path / "deep" / "er"
    with atomic.temporary_directory(parent, "name") as path:
        assert path.parent == parent and path.name.startswith(".fmbseg-tmp-name-")
        assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~atomic._UMASK
        assert is_locked(path)
        assert not is_locked(parent)
        (path / "file").write_text("1")
        (path / "sub").mkdir()
    assert list(parent.iterdir()) == []
    with (
        pytest.raises(RuntimeError, match="stop"),
        atomic.temporary_directory(parent, "name"),
    ):
        raise RuntimeError("stop")
    assert list(parent.iterdir()) == []
    # One that has got its name stays.
    with atomic.temporary_directory(parent, "name") as path:
        path.rename(parent / "name")
    assert [each.name for each in parent.iterdir()] == ["name"]


def test_what_dead_writers_left_goes_and_what_is_alive_stays(tmp_path: Path) -> None:
    atomic.remove_abandoned(tmp_path / "nowhere")
    for name in (".fmbseg-tmp-dead", "out"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text("1")
    (tmp_path / ".fmbseg-tmp-file").write_text("1")
    (tmp_path / "tmp").write_text("1")
    before = len(os.listdir("/proc/self/fd"))
    with atomic.temporary_directory(tmp_path, "alive") as path:
        held_now = len(os.listdir("/proc/self/fd"))
        assert held_now > before
        atomic.remove_abandoned(tmp_path)
        assert len(os.listdir("/proc/self/fd")) == held_now
        assert {each.name for each in tmp_path.iterdir()} == {"out", "tmp", path.name}
    assert not is_locked(tmp_path)


def test_one_that_cannot_be_swept_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".fmbseg-tmp-a").mkdir()
    without_locks(monkeypatch)
    atomic.remove_abandoned(tmp_path)
    assert (tmp_path / ".fmbseg-tmp-a").is_dir()  # nobody knows whether its writer lives


def test_a_lock_is_held_until_the_end(tmp_path: Path) -> None:
    with atomic.lock(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with atomic.lock(tmp_path, fcntl.LOCK_SH), held(tmp_path, fcntl.LOCK_SH | fcntl.LOCK_NB):
        pass
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeError), atomic.lock(tmp_path):
        raise RuntimeError
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_locks_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch)
    with atomic.lock(tmp_path):
        pass
    before = len(os.listdir("/proc/self/fd"))
    atomic.write_atomically(tmp_path / "a", b"one")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".x"].count("a") == 1
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool, there: bool, synced: list[str]
) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    new, old = tmp_path / "new", tmp_path / "old"
    new.mkdir()
    (new / "file").write_text("new")
    if there:
        old.mkdir()
        (old / "file").write_text("old")
        (old / "stale").write_text("old")
    atomic.replace_directory(new, old)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert [path.name for path in old.iterdir()] == ["file"]
    assert (old / "file").read_text() == "new"
    assert synced == [str(tmp_path)]


@pytest.mark.parametrize("exchange", [True, False])
def test_of_several_at_once_the_last_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    place = tmp_path / "place"

    def publish(number: int) -> None:
        for again in range(100):
            with atomic.temporary_directory(tmp_path, f"{number}") as source:
                whole = source / "whole"
                whole.mkdir()
                (whole / "file").write_text(f"{number} {again}")
                atomic.replace_directory(whole, place)
            if number == 0 and again % 3 == 0:  # and now and then it is removed
                with suppress(FileNotFoundError):
                    place.rename(tmp_path / f"gone{again}")

    with ThreadPoolExecutor(4) as pool:
        [*pool.map(publish, range(4))]
    with atomic.temporary_directory(tmp_path, "last") as source:
        (source / "whole").mkdir()
        (source / "whole" / "file").write_text("last")
        atomic.replace_directory(source / "whole", place)
    assert (place / "file").read_text() == "last"
    left = {path.name for path in tmp_path.iterdir()}
    assert {name for name in left if not name.startswith("gone")} == {"place"}


def test_names_are_exchanged_at_once_where_the_system_can(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    assert atomic._exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists() and (tmp_path / "b" / "a").exists()
    assert not atomic._exchange(tmp_path / "a", tmp_path / "none")


def test_a_system_without_the_call_exchanges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *given, **more: object())
    assert not atomic._exchange(tmp_path, tmp_path)


def test_relative_names_mean_the_folder_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, name).write_text(name)
    assert atomic._exchange(Path("a"), Path("b"))
    atomic.replace_directory(Path("a"), Path("b"))
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert Path("b", "b").read_text() == "b"


def test_the_process_keeps_its_umask() -> None:
    now = os.umask(0o022)
    os.umask(now)
    assert now == atomic._UMASK


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, synced: list[str]) -> None:
    path = tmp_path / "deep" / "file"
    atomic.write_atomically(path, b"1")
    assert len(synced) == 2
    assert synced[0].startswith(str(path.parent / ".fmbseg-tmp-"))
    assert synced[1] == str(path.parent)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~atomic._UMASK


def test_a_longer_leftover_does_not_show_in_a_shorter_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    _, temporary = atomic._temporary_file(path)
    temporary.write_bytes(b"longer than what comes")
    os.close(_)
    atomic.write_atomically(path, b"short")
    assert path.read_bytes() == b"short"
    assert list(tmp_path.iterdir()) == [path]


def test_checked_files_tell_any_change(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state"
    for data in (b"", b"some bytes"):
        atomic.write_checked(path, data)
        assert path.read_bytes() == hashlib.sha256(data).digest() + data
        assert atomic.read_checked(path) == data
        for content in (path.read_bytes() + b"x", path.read_bytes()[:-1], b""):
            path.write_bytes(content)
            with pytest.raises(StoreError, match="is damaged: remove it"):
                atomic.read_checked(path)
    with pytest.raises(OSError):
        atomic.read_checked(tmp_path / "none")
