"""The curve of a training in MLflow while it grows, and how metrics and parameters are logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fmbseg.tracking.run_content import Curve

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Point = tuple[int, str, float]  # epoch, metric, value

_MOST_PARAMS, _MOST_METRICS = 100, 1000  # MLflow's limits of one batch
_FLUSH_SECONDS = 5.0
_log = logging.getLogger(__name__)


@dataclass
class Attempt:
    """What came of a block that never fails."""

    succeeded: bool = False


@contextmanager
def never_fails(what: str) -> Iterator[Attempt]:
    """Turns any error into one warning: results are on disk, tracking must not lose them."""
    attempt = Attempt()
    try:
        yield attempt
        attempt.succeeded = True
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        _log.warning("%s is not in MLflow (%s); its results are complete on disk", what, reason)


class LiveCurve:
    """Metrics of a training, logged in batches into a run of its own while it goes on.

    Attributes:
        run_id: of that run; None before anything was logged.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[MlflowClient, str]],
        begin: Callable[[], tuple[str, set[int]]],  # gives the run, and the epochs it has
        name: str,
    ) -> None:
        self.run_id: str | None = None
        self._connect = connect
        self._begin = begin
        self._name = name
        self._waiting: Curve = []
        self._steps: set[int] = set()
        self._flushed = 0.0
        self._broken = False

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an epoch; every few seconds they are logged. Never raises."""
        self._waiting.append((step, dict(metrics)))
        if not self._broken and time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self._broken = True
            with never_fails(f"the live curve of {self._name}"):
                self.flush()
                self._broken = False

    def flush(self) -> None:
        """Log what waits; raises what MLflow raises."""
        if self.run_id is None:
            self.run_id, self._steps = self._begin()
        # An epoch that was logged before a kill may be done again: it stays one point.
        new = [(step, metrics) for step, metrics in self._waiting if step not in self._steps]
        log_curve(self._connect()[0], self.run_id, new)
        self._steps |= {step for step, _ in new}
        self._waiting = []
        self._flushed = time.monotonic()


def flat(curve: Curve) -> set[Point]:
    """The points of a curve."""
    return {(step, key, value) for step, row in curve for key, value in row.items()}


def logged_points(client: MlflowClient, run: Run) -> set[Point]:
    """What is logged of a training."""
    run_id = run.info.run_id
    history = [
        point for key in run.data.metrics for point in client.get_metric_history(run_id, key)
    ]
    return {(point.step, point.key, point.value) for point in history}


def log_curve(client: MlflowClient, run_id: str, curve: Curve) -> None:
    """Log metrics by step, in as few requests as MLflow allows."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, step) for step, row in curve for key, value in row.items()]
    for start in range(0, len(metrics), _MOST_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + _MOST_METRICS])


def add_params(client: MlflowClient, run: Run, params: Mapping[str, str]) -> None:
    """Log the parameters that a run does not have yet."""
    from mlflow.entities import Param

    known = run.data.params
    entries = [Param(key, value) for key, value in params.items() if key not in known]
    for start in range(0, len(entries), _MOST_PARAMS):
        client.log_batch(run.info.run_id, params=entries[start : start + _MOST_PARAMS])
