"""The curve of a training in MLflow while it grows, and how metrics and parameters are logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fmbseg.errors import one_line
from fmbseg.tracking.run_content import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_FLUSH_SECONDS = 5.0
_log = logging.getLogger(__name__)


@contextmanager
def never_fails(what: str) -> Iterator[None]:
    """Turns any error into one warning: results are on disk, tracking must not lose them."""
    try:
        yield
    except Exception as error:
        says = "%s is not in MLflow (%s); its results are complete on disk"
        _log.warning(says, what, one_line(error))


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
        self._waiting: list[Point] = []
        self._steps: set[int] = set()
        self._flushed = 0.0
        self._broken = False

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an epoch; every few seconds they are logged. Never raises."""
        self._waiting += [(step, key, value) for key, value in metrics.items()]
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
        new = [point for point in self._waiting if point[0] not in self._steps]
        log_points(self._connect()[0], self.run_id, new)
        self._steps |= {step for step, _, _ in new}
        self._waiting = []
        self._flushed = time.monotonic()


def logged_points(client: MlflowClient, run: Run) -> set[Point]:
    """What is logged of a training."""
    run_id = run.info.run_id
    history = [
        point for key in run.data.metrics for point in client.get_metric_history(run_id, key)
    ]
    return {(point.step, point.key, point.value) for point in history}


def log_points(client: MlflowClient, run_id: str, points: Iterable[Point]) -> None:
    """Log metrics by step, in as few requests as MLflow allows."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run_id, [Metric(key, value, now, step) for step, key, value in points])


def add_metrics(client: MlflowClient, run: Run, metrics: Mapping[str, float]) -> None:
    """Log the metrics that a run does not have yet with these values."""
    known = run.data.metrics
    new = [(0, key, value) for key, value in metrics.items() if known.get(key) != value]
    log_points(client, run.info.run_id, new)


def add_params(client: MlflowClient, run: Run, params: Mapping[str, str]) -> None:
    """Log the parameters that a run does not have yet."""
    from mlflow.entities import Param

    known = run.data.params
    new = [Param(key, value) for key, value in params.items() if key not in known]
    client.log_batch(run.info.run_id, params=new)
