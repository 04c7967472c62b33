"""Progress of a stage in Prefect: lines with rate and ETA in the log, and a progress artifact."""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.patience import hastily
from fmbseg.errors import one_line, shown
from fmbseg.machine.progress import LineProgress, Task

_LEAST_WORK = 100  # seconds of work to a second of waiting for the server
Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


class PrefectProgress:
    """Shows the library's progress in the run that is going on, as `machine.progress.Progress`.

    Args:
        stage: names the artifacts: `progress-detect`.
        logger: of the run.
        interval: least seconds between two updates; what takes less time shows no artifact. Where
            the server is slow to answer they are further apart, so that the work waits for it a
            hundredth of the time and no more.
    """

    def __init__(self, stage: str, logger: Logger, interval: float = 5.0) -> None:
        # Prefect takes lower-case letters, digits and dashes.
        self._key = re.sub("[^a-z0-9]", "-", f"progress-{stage}".lower())
        self._logger = logger
        self._interval = interval
        self._lines = LineProgress(cast(TextIO, _LogStream(logger)), interval=6 * interval)

    @contextmanager
    def task(self, description: str, total: int | None = None) -> Iterator[Task]:
        """See `fmbseg.machine.progress.Progress.task`."""
        with self._lines.task(description, total) as lines:
            says = shown(description)
            seen = _Shown(lines, self._key, says, total, self._logger, self._interval)
            yield seen
            if seen.artifact is not None:
                seen.show()


@dataclass
class _Shown:
    """One task, as lines and as an artifact."""

    lines: Task
    key: str
    description: str
    total: int | None
    logger: Logger
    interval: float
    done: int = 0
    last: float = field(default_factory=time.monotonic)
    artifact: UUID | None = None

    def advance(self, count: int = 1) -> None:
        self.lines.advance(count)
        self.done += count
        if self.total and time.monotonic() - self.last >= self.interval:
            self.show()

    def show(self) -> None:
        start = time.monotonic()
        percent = min(100.0 * self.done / (self.total or 1), 100.0)
        text = f"{self.description}: {self.done} of {self.total}"
        try:
            with hastily():
                if self.artifact is None:
                    made = create_progress_artifact(percent, key=self.key, description=text)
                    self.artifact = cast(UUID, made)
                else:
                    update_progress_artifact(self.artifact, percent, description=text)
        except Exception as error:  # the server is away: the work goes on without being shown
            self.logger.warning("progress could not be shown: %s", one_line(error))
        self.last = time.monotonic()
        self.interval = max(self.interval, _LEAST_WORK * (self.last - start))


class _LogStream(io.TextIOBase):
    """A text stream whose lines go to a logger."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def write(self, text: str) -> int:
        if line := text.rstrip("\n"):
            self._logger.info(line)
        return len(text)
