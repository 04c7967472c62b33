from __future__ import annotations

import io
import os
import pty
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import pytest

from fmbseg.machine.progress import LineProgress, console_progress, silent_progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_are_few_and_show_rate_and_eta() -> None:
    stream, clock = io.StringIO(), Clock()
    with LineProgress(stream, interval=10.0, clock=clock).task("detect", 100) as task:
        for _ in range(25):
            clock.now += 1.0
            task.advance(4)
    assert stream.getvalue().splitlines() == [
        "detect: 40/100, 4.0/s, ETA 0:15",
        "detect: 80/100, 4.0/s, ETA 0:05",
        "detect: 100/100, 4.0/s, took 0:25",
    ]


def test_unknown_total_and_slow_units() -> None:
    stream, clock = io.StringIO(), Clock()
    with LineProgress(stream, interval=1.0, clock=clock).task("pull") as task:
        clock.now += 3700.0
        task.advance()
    assert stream.getvalue().splitlines() == [
        "pull: 1, 3700.0 s each",
        "pull: 1, 3700.0 s each, took 1:01:40",
    ]


def test_no_final_line_after_an_error() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError), LineProgress(stream).task("detect", 2) as task:
        task.advance()
        raise ValueError
    assert stream.getvalue() == ""


def test_off_a_terminal_there_are_plain_lines() -> None:
    stream = io.StringIO()
    with console_progress(stream).task("detect", 2) as task:
        task.advance(2)
    assert stream.getvalue().startswith("detect: 2/2, ")
    assert "\x1b" not in stream.getvalue()


def test_default_goes_to_stderr_not_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with console_progress().task("detect", 1) as task:
        task.advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert "detect: 1/1" in err


@contextmanager
def terminal() -> Iterator[tuple[TextIO, list[bytes]]]:
    """A terminal's stream, and what was written to it, complete when the block has ended."""
    master, slave = pty.openpty()
    written: list[bytes] = []

    def read() -> None:
        # A terminal holds a few kilobytes; without a reader the writer would wait.
        with suppress(OSError):  # the other end was closed
            while part := os.read(master, 4096):
                written.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with os.fdopen(slave, "w") as stream:
            yield stream, written
    finally:
        reader.join()
        os.close(master)


def test_on_a_terminal_nested_tasks_share_one_display() -> None:
    with terminal() as (stream, written):
        progress = console_progress(stream)
        with progress.task("epochs", 1) as outer, progress.task("images", 3) as inner:
            inner.advance(3)
            outer.advance()
        with progress.task("again", 1) as task:
            task.advance()
    shown = b"".join(written).decode()
    for part in ("epochs", "images", "3/3", "ETA", "again"):
        assert part in shown


def test_silent_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with silent_progress().task("detect", 2) as task:
        task.advance(2)
    assert capsys.readouterr() == ("", "")
