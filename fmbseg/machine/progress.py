"""Progress of long work: a bar with rate and ETA, plain lines off a terminal, or nothing.

Stages get a `Progress` handed in; none of them knows where it is shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

from fmbseg.errors import shown


class Task(Protocol):
    """One piece of counted work."""

    def advance(self, count: int = 1) -> None:
        """Report `count` more units done."""


class Progress(Protocol):
    """Gives tasks; `with progress.task("detect", 128) as task: task.advance(64)`."""

    def task(self, description: str, total: int | None = None) -> AbstractContextManager[Task]:
        """A task of `total` units (None: unknown), shown until the block ends."""


def console_progress(stream: TextIO | None = None) -> Progress:
    """A bar on a terminal, plain lines elsewhere (logs, CI); on stderr unless told otherwise."""
    target = sys.stderr if stream is None else stream
    if target.isatty():
        return _BarProgress(Console(file=target))
    return LineProgress(target)


def silent_progress() -> Progress:
    """Shows nothing."""
    return _Silence()


class _Silence:
    """A progress, and each of its tasks."""

    @contextmanager
    def task(self, description: str, total: int | None = None) -> Iterator[Task]:
        yield self

    def advance(self, count: int = 1) -> None:
        pass


@dataclass(frozen=True)
class LineProgress:
    """Plain lines, at most one every `interval` seconds and one at each task's end.

    Attributes:
        stream: where lines go.
        interval: seconds between two lines of a task.
        clock: seconds, monotonic.
    """

    stream: TextIO
    interval: float = 10.0
    clock: Callable[[], float] = time.monotonic

    @contextmanager
    def task(self, description: str, total: int | None = None) -> Iterator[Task]:
        """See `Progress.task`."""
        task = _LineTask(self, description, total)
        yield task
        # Only on success: after an error the error is the last line, not a count.
        task.finish()


class _LineTask:
    def __init__(self, lines: LineProgress, description: str, total: int | None) -> None:
        self._lines = lines
        self._description = shown(description)
        self._total = total
        self._start = self._last = lines.clock()
        self._done = 0

    def advance(self, count: int = 1) -> None:
        self._done += count
        now = self._lines.clock()
        if now - self._last >= self._lines.interval:
            self._last = now
            self._print(now, finished=False)

    def finish(self) -> None:
        self._print(self._lines.clock(), finished=True)

    def _print(self, now: float, *, finished: bool) -> None:
        seconds = now - self._start
        rate = self._done / seconds if seconds > 0 else 0.0
        total = "" if self._total is None else f"/{self._total}"
        line = f"{self._description}: {self._done}{total}, {_rate(rate)}"
        if finished:
            line += f", took {_duration(seconds)}"
        elif self._total is not None and rate > 0:
            line += f", ETA {_duration(max(self._total - self._done, 0) / rate)}"
        print(line, file=self._lines.stream, flush=True)


class _RateColumn(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else _rate(speed), style="progress.data.speed")


class _BarProgress:
    """One live display shared by nested tasks; gone from the screen when the last one ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._display: RichProgress | None = None
        self._open = 0

    @contextmanager
    def task(self, description: str, total: int | None = None) -> Iterator[Task]:
        if self._display is None:
            self._display = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                _RateColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._display.start()
        display = self._display
        self._open += 1
        try:
            yield _BarTask(display, display.add_task(shown(description), total=total))
        finally:
            self._open -= 1
            if self._open == 0:
                display.stop()
                self._display = None


@dataclass(frozen=True)
class _BarTask:
    display: RichProgress
    identity: TaskID

    def advance(self, count: int = 1) -> None:
        self.display.advance(self.identity, count)


def _rate(per_second: float) -> str:
    if per_second >= 1 or per_second == 0:
        return f"{per_second:.1f}/s"
    return f"{1 / per_second:.1f} s each"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{whole % 60:02d}"
    return f"{minutes}:{whole % 60:02d}"
