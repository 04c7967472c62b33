"""MLflow: one run a pipeline run, so that two runs stand side by side on its compare page.

`align` makes it, and each `evaluate@...` process adds its benchmark to the same one
(`mlflow_runs.py` says how it is found). Everything logged is read from the stages' results on
disk, so logging twice changes nothing. Baselines and oracle are runs of their own with the same
metric names. What goes wrong here is one warning, never an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fmbseg.align.record import (
    HEAD,
    RECORD,
    SUPERVISION,
    recorded_sha256,
    recorded_supervision,
    supervision_of,
)
from fmbseg.config import Config
from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.results import read_result
from fmbseg.evaluate.table import corrected
from fmbseg.stage.tracker import OnMetrics, Overlay, Tracker
from fmbseg.store.digest import file_digest, json_digest
from fmbseg.store.paths import Paths
from fmbseg.store.shards import published_key
from fmbseg.tracking.champion import Rule, by_agreement, by_truth, promote
from fmbseg.tracking.live_curve import (
    LiveCurve,
    add_metrics,
    add_params,
    log_points,
    logged_points,
    never_fails,
)
from fmbseg.tracking.logged_model import log_checkpoint
from fmbseg.tracking.mlflow_runs import (
    CHECKPOINT,
    OWN,
    PARENT,
    TRAINING,
    ExperimentRuns,
    tracking_uri,
    ui_address,
)
from fmbseg.tracking.run_content import (
    class_table,
    labelled_images,
    protocol,
    read_curve,
    run_key,
    run_name,
    run_note,
    scored_images,
    scores,
    stage_figures,
    trained_labels,
)

_LOGGED = f"{OWN}logged."  # and of what: a digest of what is in the run completely
REPORT = "report"
"""Folder of a run's artifacts that has the report."""
_NOTE = "mlflow.note.content"  # what MLflow shows as the description
_DIGEST = 36  # characters of a data set's digest that MLflow's column holds


class MlflowTracker(Tracker):
    """Logs into the experiment of `config.tracking`; a project's folder is `root`."""

    def __init__(self, config: Config, root: Path) -> None:
        self._section = config.tracking
        self._root = root
        self._runs = ExperimentRuns(config.tracking, root)

    @contextmanager
    def training(
        self, config: Config, method: str, checkpoint: Path, key: Callable[[], str]
    ) -> Iterator[OnMetrics | None]:
        """See `Tracker.training`."""
        begin = partial(self._begin, config, method, key)
        curve = LiveCurve(self._runs.open, begin, f"training-{method}")
        try:
            yield curve.add
        except BaseException:
            with never_fails(f"the end of training-{method}"):
                self._fail(curve)
            raise
        self._trained(config, method, checkpoint, begun=curve.run_id is not None)

    def trained(self, config: Config, method: str, checkpoint: Path) -> None:
        """See `Tracker.trained`."""
        self._trained(config, method, checkpoint, begun=False)

    def _trained(self, config: Config, method: str, checkpoint: Path, begun: bool) -> None:
        with never_fails(f"the training of {method}"):
            sha256 = recorded_sha256(checkpoint)
            if sha256 is None:
                return
            known = self._runs.find(run_key(config, method, sha256))
            tags = {} if known is None else known.data.tags
            if not begun and tags.get(f"{_LOGGED}training") == sha256:
                return
            training = published_key(checkpoint)
            run_id = self._runs.obtain(config, method, sha256, training).info.run_id
            self._add_training(run_id, method, checkpoint, sha256)
            client, _ = self._runs.open()
            client.set_terminated(run_id, "FINISHED")
            if method == "fmbseg" and not self._is_scored(config):
                with never_fails("the agreement of the head with itself"):
                    self._add_agreement(run_id, config, checkpoint)
            client.set_tag(run_id, f"{_LOGGED}training", sha256)

    def _is_scored(self, config: Config) -> bool:
        """Whether there is truth by which this run's head can become the champion."""
        return self._section.champion_benchmark in config.evaluate.benchmarks

    def _add_agreement(self, run_id: str, config: Config, checkpoint: Path) -> None:
        """Without truth a head is known by how far it agrees with itself."""
        from fmbseg.tracking.self_agreement import measured

        data, client = config.data.name, self._runs.open()[0]
        rule = by_agreement(data)
        value, images = measured(config, checkpoint, self._root)
        add_metrics(client, client.get_run(run_id), {rule.metric: value})
        client.set_tag(run_id, rule.images, images)
        self._add_model(run_id, checkpoint, rule)

    def evaluation(
        self,
        config: Config,
        paths: Paths,
        method: str,
        benchmarks: Sequence[str],
        overlay: Overlay | None = None,
    ) -> None:
        """See `Tracker.evaluation`."""
        for benchmark in benchmarks:
            with never_fails(f"the evaluation of {method} on {benchmark}"):
                self._add_evaluation(config, paths, method, benchmark, overlay)

    def _mark(
        self, config: Config, paths: Paths, method: str, benchmark: str, result: Mapping[str, Any]
    ) -> str:
        """Digest of all that an evaluation logs; equal: everything is there already."""
        entry = config.evaluate.benchmarks.get(benchmark)
        truth = None if entry is None else entry.model_dump()
        labels = trained_labels(paths) if method == "fmbseg" else None
        model = [self._section.model, self._section.champion_benchmark]
        return json_digest([result, truth, labels, model])

    def _add_evaluation(
        self, config: Config, paths: Paths, method: str, benchmark: str, overlay: Overlay | None
    ) -> None:
        client, _ = self._runs.open()
        result = read_result(paths.metrics / method / f"{benchmark}.json")
        sha256 = result["checkpoint_sha256"]
        known = self._runs.find(run_key(config, method, sha256))
        mark = self._mark(config, paths, method, benchmark, result)
        if known is not None and known.data.tags.get(f"{_LOGGED}{benchmark}") == mark:
            return
        trained = METHODS[method].head_folder(paths)
        if trained is not None and sha256 != recorded_sha256(trained):
            trained = None  # another head lies there by now
        training = None if trained is None else published_key(trained)
        run_id = self._runs.obtain(config, method, sha256, training).info.run_id
        if trained is not None:
            self._add_training(run_id, method, trained, sha256)
        self._add_scores(run_id, config, paths.metrics / method, benchmark, result)
        client.set_terminated(run_id, "FINISHED")
        truth = partial(self._add_truth, run_id, config, benchmark, result)
        parts = {f"the data set of {benchmark}": truth}
        if overlay is not None:
            picture = partial(self._add_picture, run_id, benchmark, overlay)
            parts[f"the picture of {benchmark}"] = picture
        if method == "fmbseg" and trained is not None:
            rule = by_truth(self._section.champion_benchmark)
            parts["the model of this run"] = partial(self._add_model, run_id, trained, rule)
            parts["what the stages took"] = partial(self._add_stages, run_id, config, paths)
        if method in ("fmbseg", "pseudo"):
            parts["the score of the pseudo labels"] = partial(self._add_label_scores, config, paths)
        done = 0
        for what, add in parts.items():
            with never_fails(what):
                add()
                done += 1
        if (trained is not None or sha256 is None) and done == len(parts):
            client.set_tag(run_id, f"{_LOGGED}{benchmark}", mark)

    def _add_picture(self, run_id: str, benchmark: str, overlay: Overlay) -> None:
        client, _ = self._runs.open()
        if (picture := overlay(benchmark)) is not None:
            client.log_image(run_id, picture, artifact_file=f"overlay/{benchmark}.png")

    def _add_truth(
        self, run_id: str, config: Config, benchmark: str, result: Mapping[str, Any]
    ) -> None:
        entry, digest = config.evaluate.benchmarks.get(benchmark), result.get("samples_sha256")
        if entry is not None and digest is not None:
            name = f"{benchmark}/{entry.split}"
            self._add_data(run_id, name, digest, entry.root, "evaluation")

    def _add_stages(self, run_id: str, config: Config, paths: Paths) -> None:
        labels = trained_labels(paths)
        if labels is None:
            return
        client, _ = self._runs.open()
        logged = client.get_run(run_id).data.metrics
        figures = stage_figures(config, paths).items()
        log_points(client, run_id, [(0, key, v) for key, v in figures if key not in logged])
        data, place = config.data, paths.label.relative_to(paths.root).as_posix()
        _, images = labelled_images(paths)
        self._add_data(run_id, f"{data.name}/{data.split}", images, data.root, "training")
        self._add_data(run_id, "pseudo labels", labels, place, "training")

    def _add_label_scores(self, config: Config, paths: Paths) -> None:
        """Gives the run of the present head what stage 1 scores with the same parameters.

        Either may be there first; whoever comes second calls this to some effect.
        """
        client, _ = self._runs.open()
        head = self._runs.find(run_key(config, "fmbseg", recorded_sha256(paths.align)))
        labels = self._runs.find(run_key(config, "pseudo", None))
        if head is None or labels is None:
            return
        scored = {k: v for k, v in labels.data.metrics.items() if k.startswith("miou/")}
        add_metrics(client, head, {f"pseudo_labels/{key}": v for key, v in scored.items()})

    def _add_data(self, run_id: str, name: str, digest: str, place: str, context: str) -> None:
        """List a data set in a run; what is listed already MLflow does not list again.

        Args:
            run_id: of the run.
            name: data set and split.
            digest: of its content, hex.
            place: where it lies, relative to the workspace.
            context: training or evaluation.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        client, _ = self._runs.open()
        data = Dataset(name, digest[:_DIGEST], "local", json.dumps({"uri": place}))
        context_tag = InputTag("mlflow.data.context", context)
        client.log_inputs(run_id, [DatasetInput(data, [context_tag])])

    def _add_model(self, run_id: str, checkpoint: Path, rule: Rule) -> None:
        client, experiment = self._runs.open()
        model_id = log_checkpoint(client, experiment, run_id, checkpoint)
        promote(client, self._section.model, run_id, model_id, rule)

    def report(self, config: Config, paths: Paths, files: Sequence[Path]) -> None:
        """See `Tracker.report`."""
        with never_fails("the report"):
            run = self._runs.find(run_key(config, "fmbseg", recorded_sha256(paths.align)))
            tag, mark = f"{_LOGGED}report", json_digest([file_digest(path) for path in files])
            if run is None or run.data.tags.get(tag) == mark:
                return
            client, _ = self._runs.open()
            for path in files:
                client.log_artifact(run.info.run_id, str(path), REPORT)
            client.set_tag(run.info.run_id, tag, mark)

    def run_link(self, config: Config, paths: Paths) -> str | None:
        """See `Tracker.run_link`."""
        link: str | None = None
        with never_fails("the link to the run"):
            run = self._runs.find(run_key(config, "fmbseg", recorded_sha256(paths.align)))
            pages = ui_address(tracking_uri(self._section.uri, self._root))
            if run is not None:
                link = f"run {run.info.run_id} (`make ui`)"
                if pages is not None:
                    link = f"{pages}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        return link

    def _add_scores(
        self, run_id: str, config: Config, folder: Path, benchmark: str, result: Mapping[str, Any]
    ) -> None:
        # The other benchmarks of the same checkpoint and protocol belong to this run as well,
        # although nothing had to be computed for them: without them its row would have holes.
        client, _ = self._runs.open()
        results = {benchmark: result}
        for name in config.evaluate.benchmarks:
            path = folder / f"{name}.json"
            if name != benchmark and path.is_file():
                other = read_result(path)
                if protocol(other) == protocol(result):
                    results[name] = other
        run = client.get_run(run_id)
        for name, values in results.items():
            images = scored_images(config, name, values)
            tag, mark = f"{_LOGGED}scores.{name}", json_digest([values, images])
            if run.data.tags.get(tag) == mark:
                continue
            add_metrics(client, run, scores(values, name))
            client.log_text(run_id, class_table(values), f"per_class_iou/{name}.csv")
            self._add_child(run_id, name, values)
            if images is not None:
                client.set_tag(run_id, f"benchmark.{name}", images)
            client.set_tag(run_id, tag, mark)
        self._title(run_id, config, result)

    def _title(self, run_id: str, config: Config, result: Mapping[str, Any]) -> None:
        """Puts the scores where a list of runs shows them: into its name and its description."""
        client, _ = self._runs.open()
        run = client.get_run(run_id)
        name = run_name(config, result["method"], result["checkpoint_sha256"])
        best = self._section.champion_benchmark
        score = run.data.metrics.get(f"miou/{best}")
        if (labels := corrected(result)) is not None:
            name += f" ({labels})"
        name += "" if score is None else f" {best} {score:.1f}"
        if name != run.info.run_name:
            client.update_run(run_id, name=name)
        supervision = supervision_of(result)
        note = run_note(config, result["method"], run.data.metrics, supervision)
        if note != run.data.tags.get(_NOTE):
            client.set_tag(run_id, _NOTE, note)

    def _add_child(self, run_id: str, benchmark: str, result: Mapping[str, Any]) -> None:
        """A benchmark as a child run, with what is not logged there yet."""
        client, experiment = self._runs.open()
        name = f"evaluate-{benchmark}"
        child = self._runs.child(run_id, name)
        if child is None:
            child = client.create_run(experiment, tags={PARENT: run_id}, run_name=name)
        shown = {key: str(value) for key, value in result["protocol"].items()}
        add_params(client, child, {"benchmark": benchmark, **shown})
        own = {k.removesuffix(f"/{benchmark}"): v for k, v in scores(result, benchmark).items()}
        add_metrics(client, child, own)
        client.set_terminated(child.info.run_id, "FINISHED")

    def _add_training(self, run_id: str, method: str, checkpoint: Path, sha256: str) -> None:
        """Gives a run its checkpoint and, as a child run, its training curve.

        The child run is the one that was logged into while the training went on, if there is one.
        """
        client, experiment = self._runs.open()
        if not client.list_artifacts(run_id, "checkpoint"):
            for name in (RECORD, HEAD):
                client.log_artifact(run_id, str(checkpoint / name), "checkpoint")
        if (supervision := recorded_supervision(checkpoint)) is not None:
            client.set_tag(run_id, SUPERVISION, supervision.words)
        name, key = f"training-{method}", published_key(checkpoint)
        child, begun = self._runs.child(run_id, name), self._runs.begun(method, key)
        if child is not None and child.info.status == "FINISHED":
            if begun is not None:
                client.delete_run(begun.info.run_id)  # the same head was trained a second time
            return
        curve = read_curve(checkpoint / "curve.csv")
        child = begun or child
        if child is not None and logged_points(client, child) - {*curve}:
            # Two tries of one training are equal on one machine, not on two: what a try logged that
            # did not get to this head would be a curve of neither.
            client.delete_run(child.info.run_id)
            child = None
        if child is None:
            child = client.create_run(experiment, tags={PARENT: run_id}, run_name=name)
        for tag, value in ((PARENT, run_id), (TRAINING, key or ""), (CHECKPOINT, sha256)):
            client.set_tag(child.info.run_id, tag, value)
        steps = {step for step, _, _ in logged_points(client, child)}
        log_points(client, child.info.run_id, [each for each in curve if each[0] not in steps])
        client.set_terminated(child.info.run_id, "FINISHED")

    def _begin(self, config: Config, method: str, key: Callable[[], str]) -> tuple[str, set[int]]:
        """The run that a training is logged into, below its pipeline run, and the epochs it has.

        One that was killed or failed goes on in the run it had.
        """
        client, experiment = self._runs.open()
        training = key()
        parent = self._runs.obtain(config, method, None, training).info.run_id
        client.update_run(parent, status="RUNNING")
        begun = self._runs.begun(method, training)
        if begun is None:
            tags = {PARENT: parent, TRAINING: training}
            made = client.create_run(experiment, tags=tags, run_name=f"training-{method}")
            return made.info.run_id, set()
        run_id, before = begun.info.run_id, begun.data.tags.get(PARENT)
        client.set_tag(run_id, PARENT, parent)
        if before not in (None, parent) and not client.get_run(before).data.tags.get(CHECKPOINT):
            # It was begun with other parameters, which do not concern the training.
            client.delete_run(before)
        client.update_run(run_id, status="RUNNING")
        return run_id, {step for step, _, _ in logged_points(client, begun)}

    def _fail(self, curve: LiveCurve) -> None:
        if curve.run_id is None:
            return
        client, _ = self._runs.open()
        parent = client.get_run(curve.run_id).data.tags[PARENT]
        for run_id in (curve.run_id, parent):
            client.set_terminated(run_id, "FAILED")
        curve.flush()
