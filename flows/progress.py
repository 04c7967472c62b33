"""Progress of a stage in Prefect: lines with rate and ETA in the log, and a progress artifact."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

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
        self._stage = stage
        self._logger = logger
        self._interval = interval
        self._lines = LineProgress(cast(TextIO, _LogStream(logger)), interval=6 * interval)

    @contextmanager
    def task(self, description: str, total: int | None = None) -> Iterator[Task]:
        """See `fmbseg.machine.progress.Progress.task`."""
        with self._lines.task(description, total) as lines:
            shown = _Shown(lines, self._stage, description, total, self._logger, self._interval)
            yield shown
            shown.finish()


class _Shown:
    """One task, as lines and as an artifact."""

    def __init__(
        self,
        lines: Task,
        stage: str,
        description: str,
        total: int | None,
        logger: Logger,
        interval: float,
    ) -> None:
        self._lines = lines
        self._key = artifact_key(f"progress-{stage}")
        self._description = description
        self._total = total
        self._logger = logger
        self._interval = interval
        self._done = 0
        self._last = time.monotonic()
        self._artifact: UUID | None = None

    def advance(self, count: int = 1) -> None:
        self._lines.advance(count)
        self._done += count
        if time.monotonic() - self._last >= self._interval:
            self._show()

    def finish(self) -> None:
        if self._artifact is not None:
            self._show()

    def _show(self) -> None:
        start = time.monotonic()
        self._tell_server()
        self._last = time.monotonic()
        self._interval = max(self._interval, _LEAST_WORK * (self._last - start))

    def _tell_server(self) -> None:
        if not self._total:
            return
        percent = min(100.0 * self._done / self._total, 100.0)
        text = f"{self._description}: {self._done} of {self._total}"
        try:
            if self._artifact is None:
                made = create_progress_artifact(percent, key=self._key, description=text)
                self._artifact = made if isinstance(made, UUID) else None
            else:
                update_progress_artifact(self._artifact, percent, description=text)
        except Exception as error:  # the server is away: the work goes on without being shown
            self._logger.warning("progress could not be shown: %s", " ".join(str(error).split()))


class _LogStream(io.TextIOBase):
    """A text stream whose lines go to a logger."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def write(self, text: str) -> int:
        if line := text.rstrip("\n"):
            self._logger.info(line)
        return len(text)


def artifact_key(text: str) -> str:
    """Prefect takes lower-case letters, digits and dashes."""
    return "".join(char if char.isalnum() else "-" for char in text.lower())
