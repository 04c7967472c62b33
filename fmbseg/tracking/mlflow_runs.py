"""The runs of a project's MLflow experiment: found again by their keys, made where there is none.

A run's key is the sha256 of method, checkpoint and parameters. Until a training ends, its content
key stands in for the checkpoint's, so that one that was killed goes on in its own run.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fmbseg.config import Config, TrackingSection
from fmbseg.errors import shown
from fmbseg.store.atomic import lock
from fmbseg.store.paths import project_folder
from fmbseg.tracking.live_curve import add_params
from fmbseg.tracking.local_runs import local_tags
from fmbseg.tracking.run_content import run_key, run_name, run_params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Tags of a run. MLflow's pages do not show those that begin with `mlflow.`: what only this package
# reads, keys and digests, is kept out of a reader's sight.
OWN = "mlflow.fmbseg."
KEY = f"{OWN}key"
CHECKPOINT = f"{OWN}checkpoint"
TRAINING = f"{OWN}training"
COMMIT = "mlflow.source.git.commit"
PARENT = "mlflow.parentRunId"
EXPERIMENT = "dvc.experiment"
_PAUSE_SECONDS = 60.0
_SHORT = 10  # characters of a commit that people read
# Until when a server or database that did not answer is left alone: to find that out takes seconds,
# and a pipeline in which everything is done asks a dozen times.
_away: dict[str, float] = {}


class ExperimentRuns:
    """Runs of the experiment that a section names; a project's folder is `root`."""

    def __init__(self, section: TrackingSection, root: Path) -> None:
        self._section = section
        self._root = root
        self._opened: tuple[MlflowClient, str] | None = None

    def obtain(
        self, config: Config, method: str, sha256: str | None, training: str | None = None
    ) -> Run:
        """The run with this key: made where it is not there, given the parameters it lacks.

        Args:
            config: all sections.
            method: such as fmbseg.
            sha256: of the checkpoint; None: nothing is trained, or not yet.
            training: content key of the training. It stands for the checkpoint until that is there;
                then the run that was begun with it gets its final key.
        """
        client, experiment = self.open()
        learned = sha256 or training
        key, name = run_key(config, method, learned), run_name(config, method, learned)
        known = self.find(key)
        if sha256 is not None and training is not None:
            begun = self.find(run_key(config, method, training))
            if begun is not None and known is None:
                client.update_run(begun.info.run_id, name=name)
                client.set_tag(begun.info.run_id, CHECKPOINT, sha256)
                client.set_tag(begun.info.run_id, KEY, key)
                known = begun
            elif begun is not None:
                client.delete_run(begun.info.run_id)  # the same head was trained a second time
        if known is None:
            tags = {KEY: key, CHECKPOINT: sha256 or "", **_origin(self._root)}
            made = client.create_run(experiment, tags=tags, run_name=name)
            known = self.find(key) or made
            if known.info.run_id != made.info.run_id:
                # Two processes made it at once: the older one stays.
                client.delete_run(made.info.run_id)
        # Also of a run that was found: the process that made it may have been killed before this.
        add_params(client, known, {"method": method, **run_params(config, method)})
        return known

    def find(self, key: str) -> Run | None:
        """The oldest run with this key."""
        return self._search(f"tags.`{KEY}` = '{key}'")

    def tags_of(self, key: str) -> dict[str, str]:
        """The tags of the run with this key, {} where there is none.

        Of a local database they are read without MLflow; see `local_tags`.
        """
        if self._opened is None:
            uri = tracking_uri(self._section.uri, self._root)
            local = local_tags(uri, self._section.experiment, KEY, key)
            if local is not None:
                return local
        known = self.find(key)
        return {} if known is None else dict(known.data.tags)

    def every(self) -> list[Run]:
        """All pipeline runs; trainings and benchmarks below them are left out."""
        client, experiment = self.open()
        runs: list[Run] = []
        token: str | None = ""
        while token is not None:
            # Only they have this parameter.
            page = client.search_runs([experiment], "params.method != ''", page_token=token or None)
            runs += page
            token = page.token or None
        return runs

    def child(self, run_id: str, name: str) -> Run | None:
        """The child run of this name."""
        return self._search(f"tags.`{PARENT}` = '{run_id}' and attributes.run_name = '{name}'")

    def begun(self, method: str, training: str | None) -> Run | None:
        """The run of a training that has not come to its end; `training`: its content key."""
        if training is None:
            return None
        return self._search(
            f"tags.`{TRAINING}` = '{training}' and attributes.run_name = 'training-{method}' "
            "and attributes.status != 'FINISHED'"
        )

    def _search(self, wanted: str) -> Run | None:
        """The oldest run that fits."""
        client, experiment = self.open()
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        found = client.search_runs([experiment], wanted, order_by=order, max_results=1)
        return found[0] if found else None

    def open(self) -> tuple[MlflowClient, str]:
        """The client and the experiment's id; MLflow is imported and contacted here first."""
        if self._opened is None:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            # Two lines on stdout for every child run that ends.
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            # A bar for every file of a few kilobytes.
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            # Its own defaults retry a dead server for minutes; the results are on disk anyway.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
            from mlflow import MlflowClient

            for name in ("alembic", "mlflow"):
                logging.getLogger(name).setLevel(logging.WARNING)
            uri = tracking_uri(self._section.uri, self._root)
            if time.monotonic() < _away.get(uri, 0.0):
                raise ConnectionError("it did not answer a moment ago")
            try:
                with _alone(uri):
                    client = MlflowClient(tracking_uri=uri)
                    self._opened = client, self._experiment(client, uri)
            except Exception:
                _away[uri] = time.monotonic() + _PAUSE_SECONDS
                raise
        return self._opened

    def _experiment(self, client: MlflowClient, uri: str) -> str:
        name = self._section.experiment
        if (found := client.get_experiment_by_name(name)) is None:
            # A server knows where artefacts go; beside a local database they go into mlruns/.
            local = uri.startswith("sqlite")
            place = (project_folder(self._root).resolve() / "mlruns").as_uri() if local else None
            try:
                return str(client.create_experiment(name, artifact_location=place))
            except Exception:  # perhaps another process was faster
                if (found := client.get_experiment_by_name(name)) is None:
                    raise
        return str(found.experiment_id)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Keep other processes from making the same SQLite database: MLflow does so step by step."""
    scheme, separator, name = uri.partition(":///")
    folder = Path(name).parent
    with lock(folder) if scheme == "sqlite" and separator and folder.is_dir() else nullcontext():
        yield


def _origin(root: Path) -> dict[str, str]:
    """Tags that say what a run was made from: the project's commit, and the experiment of DVC."""
    tags = {}
    with suppress(OSError):  # no git on this machine
        command = ["git", "-C", str(project_folder(root).resolve()), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            # MLflow's own tag: its run list has a column for it. The other is for people.
            tags = {COMMIT: done.stdout.strip(), "commit": done.stdout[:_SHORT]}
    # DVC tells the stages of an experiment its name.
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags[EXPERIMENT] = shown(experiment)
    return tags


def tracking_uri(uri: str, root: Path) -> str:
    """The address to log to: `MLFLOW_TRACKING_URI` where it is set, otherwise `uri`.

    A relative SQLite path is taken from the project itself, also in the copies of it that DVC
    makes below `.dvc/tmp/exps` for queued experiments.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or uri
    scheme, separator, name = uri.partition(":///")
    if not separator or not scheme.startswith("sqlite") or name.startswith("/"):
        return uri
    return f"{scheme}:///{project_folder(root).resolve() / name}"


def ui_address(uri: str) -> str | None:
    """Where a browser finds MLflow's pages: `FMBSEG_MLFLOW_UI` where it is set, otherwise `uri`.

    A server among containers has a name that only they know. A password in `uri` is left out.

    Args:
        uri: the address that runs are logged to; a database has no pages.
    """
    if own := os.environ.get("FMBSEG_MLFLOW_UI"):
        return own.rstrip("/")
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"}:
        return None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
