"""MLflow: one run a pipeline run, so that two runs stand side by side on its compare page.

A run is found again by its key, the sha256 of method, checkpoint and parameters. `align` makes
it, and each `evaluate@...` process adds its benchmark to the same one. Everything logged is read
from the stages' results on disk, so logging twice changes nothing. Baselines and oracle are runs
of their own with the same metric names. What goes wrong here is one warning, never an error.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmbseg.config import Config
from fmbseg.logged_model import log_checkpoint, promote
from fmbseg.paths import Paths, project_folder
from fmbseg.runs import (
    Curve,
    TrackedData,
    checkpoint_sha256,
    class_table,
    evaluation_data,
    flat_params,
    protocol,
    read_curve,
    read_json,
    run_key,
    run_name,
    scored_images,
    scores,
    stage_figures,
    trained_labels,
    training_data,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from PIL import Image

OnMetrics = Callable[[int, Mapping[str, float]], None]
Overlay = Callable[[str], "Image.Image | None"]

_KEY = "fmbseg.key"
_CHECKPOINT = "fmbseg.checkpoint"
_PARENT = "mlflow.parentRunId"
_MOST_PARAMS, _MOST_METRICS = 100, 1000  # MLflow's limits of one batch
_FLUSH_SECONDS = 5.0
_DIGEST = 36  # characters of a data set's digest that MLflow's column holds
_log = logging.getLogger(__name__)


class Tracker:
    """Where runs are logged; this one logs nothing."""

    @contextmanager
    def training(self, config: Config, method: str, checkpoint: Path) -> Iterator[OnMetrics | None]:
        """Logs a training while it runs; gives what is to be called with epoch and metrics."""
        yield None

    def evaluation(
        self,
        config: Config,
        paths: Paths,
        method: str,
        benchmarks: Sequence[str],
        overlay: Overlay | None = None,
    ) -> None:
        """Adds the results in `metrics/<method>/<benchmark>.json` to the run.

        Args:
            config: its tracking section aside, what the results were made with.
            paths: the workspace.
            method: such as fmbseg.
            benchmarks: names.
            overlay: gives the picture of one segmented image of a benchmark.
        """

    def run_link(self, config: Config, paths: Paths) -> str | None:
        """Where the run of the present checkpoint is shown; None: nowhere."""
        return None


def open_tracker(config: Config, root: Path = Path(".")) -> Tracker:
    """The tracker of `config.tracking`; nothing is contacted before something is logged."""
    return _MlflowTracker(config, root) if config.tracking.enabled else Tracker()


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


@contextmanager
def _never_fails(what: str) -> Iterator[None]:
    """Turns any error into one warning: results are on disk, tracking must not lose them."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        _log.warning("%s is not in MLflow (%s); its results are complete on disk", what, reason)


class _MlflowTracker(Tracker):
    def __init__(self, config: Config, root: Path) -> None:
        self._section = config.tracking
        self._root = root
        self._opened: tuple[MlflowClient, str] | None = None

    @contextmanager
    def training(self, config: Config, method: str, checkpoint: Path) -> Iterator[OnMetrics | None]:
        curve = _LiveCurve(self._open, f"training-{method}")
        try:
            yield curve.add
        except BaseException:
            curve.end("FAILED")
            raise
        with _never_fails(f"the training of {method}"):
            sha256 = checkpoint_sha256(checkpoint)
            if curve.run_id is not None and sha256 is not None:
                curve.complete(read_curve(checkpoint / "curve.csv"))
                client, _ = self._open()
                client.set_tag(curve.run_id, _CHECKPOINT, sha256)
                client.set_tag(curve.run_id, _PARENT, self._run(config, method, sha256))
        curve.end("FINISHED")

    def evaluation(
        self,
        config: Config,
        paths: Paths,
        method: str,
        benchmarks: Sequence[str],
        overlay: Overlay | None = None,
    ) -> None:
        checkpoints = {"fmbseg": paths.align, "oracle": paths.oracle}
        for benchmark in benchmarks:
            with _never_fails(f"the evaluation of {method} on {benchmark}"):
                folder = paths.metrics / method
                result = read_json(folder / f"{benchmark}.json")
                run_id = self._run(config, method, result["checkpoint_sha256"])
                if method in checkpoints:
                    self._add_training(run_id, method, checkpoints[method], result)
                self._add_scores(run_id, config, folder, benchmark, result)
                if overlay is not None and (picture := overlay(benchmark)) is not None:
                    path = f"overlay/{benchmark}.png"
                    self._open()[0].log_image(run_id, picture, artifact_file=path)
                with _never_fails(f"the data set of {benchmark}"):
                    self._add_data(run_id, evaluation_data(config, benchmark, result))
                self._open()[0].set_terminated(run_id, "FINISHED")
                if method == "fmbseg" and result["checkpoint_sha256"] == checkpoint_sha256(
                    paths.align
                ):
                    self._add_model(run_id, paths.align)
                    self._add_stages(run_id, config, paths)

    def _add_stages(self, run_id: str, config: Config, paths: Paths) -> None:
        with _never_fails("what the stages took"):
            labels = trained_labels(paths)
            if labels is None:
                return
            client, _ = self._open()
            logged = client.get_run(run_id).data.metrics
            new = {k: v for k, v in stage_figures(paths, labels).items() if k not in logged}
            _log_curve(client, run_id, [(0, new)])
            self._add_data(run_id, training_data(config, paths, labels))

    def _add_data(self, run_id: str, data: Sequence[TrackedData]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        def source(each: TrackedData) -> str:
            return json.dumps({"uri": each.source})

        client, _ = self._open()
        logged = client.get_run(run_id).inputs
        sets = [entry.dataset for entry in logged.dataset_inputs] if logged else []
        known = {(each.name, each.digest) for each in sets}
        inputs = [
            DatasetInput(
                Dataset(
                    each.name, each.digest[:_DIGEST], "local", json.dumps({"uri": each.source})
                ),
                [InputTag("mlflow.data.context", each.context)],
            )
            for each in data
            if (each.name, each.digest[:_DIGEST]) not in known
        ]
        if inputs:
            client.log_inputs(run_id, inputs)

    def _add_model(self, run_id: str, checkpoint: Path) -> None:
        with _never_fails("the model of this run"):
            client, experiment = self._open()
            model_id = log_checkpoint(client, experiment, run_id, checkpoint)
            section = self._section
            promote(client, section.model, run_id, model_id, section.champion_benchmark)

    def run_link(self, config: Config, paths: Paths) -> str | None:
        link: str | None = None
        with _never_fails("the link to the run"):
            _, experiment = self._open()
            run_id = self._find(run_key(config, "fmbseg", checkpoint_sha256(paths.align)))
            uri = tracking_uri(self._section.uri, self._root)
            if run_id is not None:
                link = f"run {run_id} (`make ui`)"
                if uri.startswith("http"):
                    link = f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
        return link

    def _add_scores(
        self, run_id: str, config: Config, folder: Path, benchmark: str, result: Mapping[str, Any]
    ) -> None:
        # The other benchmarks of the same checkpoint and protocol belong to this run as well,
        # although nothing had to be computed for them: without them its row would have holes.
        client, _ = self._open()
        results = {benchmark: result}
        for name in config.evaluate.benchmarks:
            path = folder / f"{name}.json"
            other = read_json(path) if name != benchmark and path.is_file() else {}
            if other and protocol(other) == protocol(result):
                results[name] = other
        logged = client.get_run(run_id).data.metrics
        for name, values in results.items():
            new = {k: v for k, v in scores(values, name).items() if logged.get(k) != v}
            _log_curve(client, run_id, [(0, new)])
            client.log_text(run_id, class_table(values), f"per_class_iou/{name}.csv")
            self._add_child(run_id, name, values, new)
            if (images := scored_images(config, name, values)) is not None:
                client.set_tag(run_id, f"benchmark.{name}", images)

    def _add_child(
        self, run_id: str, benchmark: str, result: Mapping[str, Any], new: Mapping[str, float]
    ) -> None:
        """A benchmark as a child run, with the scores that are not logged yet."""
        client, experiment = self._open()
        name = f"evaluate-{benchmark}"
        child = self._child(run_id, name)
        if child is None:
            tags = {_PARENT: run_id, "fmbseg.benchmark": benchmark}
            child = client.create_run(experiment, tags=tags, run_name=name).info.run_id
            shown = {key: str(value) for key, value in result["protocol"].items()}
            _log_params(client, child, {"benchmark": benchmark, **shown})
            new = scores(result, benchmark)
        own = {key.removesuffix(f"/{benchmark}"): value for key, value in new.items()}
        _log_curve(client, child, [(0, own)])
        client.set_terminated(child, "FINISHED")

    def _child(self, run_id: str, name: str) -> str | None:
        client, experiment = self._open()
        wanted = f"tags.`{_PARENT}` = '{run_id}' and attributes.run_name = '{name}'"
        found = client.search_runs([experiment], wanted, max_results=1)
        return found[0].info.run_id if found else None

    def _add_training(
        self, run_id: str, method: str, checkpoint: Path, result: Mapping[str, Any]
    ) -> None:
        """Gives a run its checkpoint and, as a child run, its training curve."""
        sha256 = result["checkpoint_sha256"]
        if sha256 != checkpoint_sha256(checkpoint):
            return
        client, experiment = self._open()
        if not client.list_artifacts(run_id, "checkpoint"):
            for name in ("checkpoint.json", "head.safetensors"):
                client.log_artifact(run_id, str(checkpoint / name), "checkpoint")
        if self._child(run_id, f"training-{method}") is None:
            tags = {_PARENT: run_id, _CHECKPOINT: sha256}
            run = client.create_run(experiment, tags=tags, run_name=f"training-{method}")
            _log_curve(client, run.info.run_id, read_curve(checkpoint / "curve.csv"))
            client.set_terminated(run.info.run_id, "FINISHED")

    def _run(self, config: Config, method: str, sha256: str | None) -> str:
        """The id of the run with this key; made, with its parameters, where it is not there."""
        client, experiment = self._open()
        tags = {_KEY: run_key(config, method, sha256), "fmbseg.method": method}
        tags[_CHECKPOINT] = sha256 or ""

        if (known := self._find(tags[_KEY])) is not None:
            return known
        name = run_name(config, method, sha256)
        made: str = client.create_run(experiment, tags=tags, run_name=name).info.run_id
        if (first := self._find(tags[_KEY])) is not None and first != made:
            client.delete_run(made)  # two processes made it at once: the older one stays
            return first
        params = flat_params(config, trained=sha256 is not None)
        _log_params(client, made, {"method": method, **params})
        return made

    def _find(self, key: str) -> str | None:
        """The oldest run with this key."""
        client, experiment = self._open()
        found = client.search_runs(
            [experiment],
            f"tags.`{_KEY}` = '{key}'",
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
            max_results=1,
        )
        return found[0].info.run_id if found else None

    def _open(self) -> tuple[MlflowClient, str]:
        """The client and the experiment's id; MLflow is imported and contacted here first."""
        if self._opened is None:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            # Two lines on stdout for every child run that ends.
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            # Its own defaults retry a dead server for minutes; the results are on disk anyway.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
            from mlflow import MlflowClient

            for name in ("alembic", "mlflow"):
                logging.getLogger(name).setLevel(logging.WARNING)
            uri = tracking_uri(self._section.uri, self._root)
            client = MlflowClient(tracking_uri=uri)
            self._opened = client, self._experiment(client, uri)
        return self._opened

    def _experiment(self, client: MlflowClient, uri: str) -> str:
        name = self._section.experiment
        if (found := client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        # A server knows where artefacts go; beside a local database they go into mlruns/.
        local = uri.startswith("sqlite")
        place = (project_folder(self._root).resolve() / "mlruns").as_uri() if local else None
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except Exception:
            if (found := client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)  # another process was faster


class _LiveCurve:
    """Metrics of a training, logged in batches into a run of its own while it goes on."""

    def __init__(self, connect: Callable[[], tuple[MlflowClient, str]], name: str) -> None:
        self.run_id: str | None = None
        self._connect = connect
        self._name = name
        self._waiting: Curve = []
        self._steps: set[int] = set()
        self._flushed = 0.0
        self._broken = False

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        self._waiting.append((step, dict(metrics)))
        if not self._broken and time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self._broken = True
            with _never_fails(f"the live curve of {self._name}"):
                self._flush()
                self._broken = False

    def complete(self, curve: Curve) -> None:
        """Adds what was learned before a resume; this process did not see those epochs."""
        seen = self._steps | {step for step, _ in self._waiting}
        self._waiting += [(step, metrics) for step, metrics in curve if step not in seen]
        self._flush()

    def end(self, status: str) -> None:
        if self.run_id is not None:
            with _never_fails(f"the end of {self._name}"):
                self._flush()
                self._connect()[0].set_terminated(self.run_id, status)

    def _flush(self) -> None:
        client, experiment = self._connect()
        if self.run_id is None:
            self.run_id = client.create_run(experiment, run_name=self._name).info.run_id
        _log_curve(client, self.run_id, self._waiting)
        self._steps |= {step for step, _ in self._waiting}
        self._waiting = []
        self._flushed = time.monotonic()


def _log_curve(client: MlflowClient, run_id: str, curve: Curve) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, step) for step, row in curve for key, value in row.items()]
    for start in range(0, len(metrics), _MOST_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + _MOST_METRICS])


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, value) for key, value in params.items()]
    for start in range(0, len(entries), _MOST_PARAMS):
        client.log_batch(run_id, params=entries[start : start + _MOST_PARAMS])
