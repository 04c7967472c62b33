"""What is remembered of files, and when it is asked anew."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fmbseg.machine.progress import silent_progress
from fmbseg.store.file_memory import remembered

OLD = time.time() - 3600
Ask = Callable[..., tuple[list[str], list[str]]]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files that were not changed of late."""
    paths = [tmp_path / f"{name}.txt" for name in "abc"]
    for path in paths:
        path.write_text(path.stem)
        os.utime(path, (OLD, OLD))
    return paths


@pytest.fixture
def ask(files: list[Path], tmp_path: Path) -> Ask:
    """Asks what the files hold; gives that, and the files that were read for it."""

    def call(
        name: str = "texts", folder: Path | None = tmp_path / "memory"
    ) -> tuple[list[str], list[str]]:
        read: list[str] = []

        def one(index: int) -> str:
            read.append(files[index].name)
            return files[index].read_text()

        items = [(path,) for path in files]
        found = remembered(folder, name, items, one, silent_progress(), "texts")
        return found, sorted(read)

    return call


def test_unchanged_files_are_read_once(ask: Ask) -> None:
    assert ask() == (["a", "b", "c"], ["a.txt", "b.txt", "c.txt"])
    assert ask() == (["a", "b", "c"], [])


def test_without_a_folder_all_are_read(ask: Ask) -> None:
    ask(folder=None)
    assert len(ask(folder=None)[1]) == 3


def test_another_name_is_another_memory(ask: Ask) -> None:
    ask()
    assert len(ask(name="other")[1]) == 3


@pytest.mark.parametrize("text", ["d", "longer"])
def test_a_changed_file_is_read_again(ask: Ask, files: list[Path], text: str) -> None:
    ask()
    files[1].write_text(text)  # of the same size, too: its time is another
    os.utime(files[1], (OLD + 1, OLD + 1))
    assert ask() == (["a", text, "c"], ["b.txt"])
    assert ask() == (["a", text, "c"], [])


def test_a_file_of_just_now_may_change_again_unseen(ask: Ask, files: list[Path]) -> None:
    os.utime(files[1])
    ask()
    assert ask()[1] == ["b.txt"]


def test_a_damaged_memory_is_made_again(
    ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask()
    (place,) = (tmp_path / "memory").iterdir()
    place.write_bytes(place.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING):
        assert len(ask()[1]) == 3
    assert "made again" in caplog.text
    assert ask()[1] == []


def test_a_memory_that_cannot_be_written_costs_a_warning(
    ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "memory").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert len(ask()[0]) == 3
    assert "cannot be written" in caplog.text


def test_what_was_read_before_an_error_is_kept(ask: Ask, files: list[Path]) -> None:
    files[2].write_bytes(b"\xff")
    os.utime(files[2], (OLD, OLD))
    with pytest.raises(UnicodeDecodeError):
        ask()
    files[2].write_text("c")
    os.utime(files[2], (OLD, OLD))
    assert ask()[1] == ["c.txt"]


def test_each_file_of_an_item_counts(tmp_path: Path, files: list[Path]) -> None:
    reads: list[int] = []

    def read(index: int) -> str:
        reads.append(index)
        return "x"

    def call() -> None:
        items = [(files[0], files[1]), (files[0], files[2])]
        remembered(tmp_path / "memory", "pairs", items, read, silent_progress(), "pairs")

    call()
    os.utime(files[2], (OLD + 5, OLD + 5))
    call()
    assert sorted(reads) == [0, 1, 1]


def test_a_file_whose_content_is_another_one_is_named(
    ask: Ask, files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    ask()
    os.utime(files[0], (OLD + 60, OLD + 60))  # touched: the content is the same
    files[1].write_text("x")
    os.utime(files[1], (OLD + 60, OLD + 60))
    with caplog.at_level(logging.WARNING):
        assert ask()[0] == ["a", "x", "c"]
    assert "1 of 3 files have changed since they were last read" in caplog.text
    assert "b.txt" in caplog.text and "a.txt" not in caplog.text
    caplog.clear()
    ask()
    assert not caplog.text
