"""A search in MLflow: a run for the search, and a child run for each of its trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fmbseg.config import TrackingSection
from fmbseg.tracking.live_curve import add_metrics, add_params, log_points, never_fails
from fmbseg.tracking.mlflow_runs import OWN, PARENT, ExperimentRuns
from fmbseg.tracking.run_content import read_curve

_SEARCH = f"{OWN}search"
_TRIAL = f"{OWN}trial"
VALUE = "value"
"""Metric of a trial, and of the search the best of it."""


class SearchRuns:
    """Logs the trials of one search; what goes wrong is one warning, never an error.

    Args:
        section: where runs are logged; where tracking is switched off, nothing is.
        root: the project.
        name: of the search.
    """

    def __init__(self, section: TrackingSection, root: Path, name: str) -> None:
        self._runs = ExperimentRuns(section, root)
        self._on, self._name = section.enabled, name

    def trial(
        self,
        number: int,
        params: Mapping[str, object],
        scores: Mapping[str, float],
        value: float,
        curve: Path,
    ) -> None:
        """Log a trial that is done; what is logged already is not logged twice.

        Args:
            number: of the trial.
            params: `section.key` -> value, those that are searched.
            scores: by benchmark.
            value: what the search makes as large as it can.
            curve: table of its training's losses.
        """
        if not self._on:
            return
        with never_fails(f"trial {number} of the search {self._name}"):
            client, _ = self._runs.open()
            parent = self._obtain(_SEARCH, self._name, f"search-{self._name}")
            best = client.get_run(parent).data.metrics.get(VALUE)
            child = self._obtain(_TRIAL, f"{self._name}/{number}", f"trial-{number}", parent)
            run = client.get_run(child)
            add_params(client, run, {name: str(each) for name, each in params.items()})
            if "loss" not in run.data.metrics:
                log_points(client, child, read_curve(curve))
            add_metrics(client, run, {VALUE: value, **{f"miou/{k}": v for k, v in scores.items()}})
            client.set_terminated(child, "FINISHED")
            if best is None or value > best:
                add_metrics(client, client.get_run(parent), {VALUE: value})
                for name, each in params.items():
                    client.set_tag(parent, f"best.{name}", str(each))
                client.set_tag(parent, "best", f"trial-{number}")
            client.set_terminated(parent, "FINISHED")

    def _obtain(self, tag: str, key: str, name: str, parent: str | None = None) -> str:
        client, experiment = self._runs.open()
        wanted = f"tags.`{tag}` = '{key}'"
        if found := client.search_runs([experiment], wanted, max_results=1):
            return str(found[0].info.run_id)
        tags = {tag: key} | ({} if parent is None else {PARENT: parent})
        return str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)
