from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from fmbseg.config import Config, load_config
from fmbseg.paths import Paths
from fmbseg.pseudo.tables import MASKS, MASKS_SCHEMA, write_table
from fmbseg.runs import (
    checkpoint_sha256,
    class_table,
    flat_params,
    run_key,
    stage_figures,
    trained_labels,
)
from fmbseg.store import published_digest
from fmbseg.tracking import open_tracker, tracking_uri, ui_address
from tests.heads import write_head

PARAMS = Path(__file__).parent.parent / "params.yaml"
BENCHMARKS = ("voc21", "voc20", "coco_stuff")
KEY = "content key of the training"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests, because making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = logging.getLogger("fmbseg")
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture
def config(database: str, request: pytest.FixtureRequest) -> Config:
    """The parameters of the demo, logged into an experiment of the test's own."""
    return load_config(
        PARAMS,
        [f"tracking.{key}={request.node.name}" for key in ("experiment", "model")]
        + [f"tracking.uri={database}"],
    )


def _head(config: Config, kind: str) -> Config:
    return config.model_copy(update={"align": config.align.model_copy(update={"head": kind})})


def _checkpoint(folder: Path, sha256: str, epochs: int = 3, key: str = KEY) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"key": key}))
    (folder / "checkpoint.json").write_text(json.dumps({"sha256": sha256}))
    (folder / "head.safetensors").write_bytes(b"weights")
    _curve(folder, epochs)


def _curve(folder: Path, epochs: int = 3) -> None:
    rows = [
        ",".join(map(str, (epoch, *_metrics(epoch).values()))) + "\n"
        for epoch in range(1, epochs + 1)
    ]
    (folder / "curve.csv").write_text("epoch,loss,lr\n" + "".join(rows))


def _metrics(epoch: int) -> dict[str, float]:
    return {"loss": 1 / epoch, "lr": 0.1 * epoch}


def _train(
    config: Config, paths: Paths, sha256: str = "abc", epochs: tuple[int, ...] = (1, 2, 3)
) -> None:
    """A training that does these epochs, and publishes its head."""
    tracker = open_tracker(config, paths.root)
    with tracker.training(config, "fmbseg", paths.align, lambda: KEY) as on_metrics:
        assert on_metrics is not None
        for epoch in epochs:
            on_metrics(epoch, _metrics(epoch))
        _checkpoint(paths.align, sha256)


def _result(
    paths: Paths,
    benchmark: str,
    miou: float,
    sha256: str | None,
    method: str = "fmbseg",
    **more: Any,
) -> None:
    result = {
        "benchmark": benchmark,
        "method": method,
        "miou": miou,
        "miou_present": miou + 1,
        "pixel_accuracy": None,
        "per_class_iou": {"dog": miou, "tree, bush": None},
        "images": 4,
        "protocol": {"split": f"val of {benchmark}", "limit": None, "short_side": 128},
        "checkpoint_sha256": sha256,
        "vocabulary_sha256": "v",
        **more,
    }
    path = paths.metrics / method / f"{benchmark}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


def _runs(config: Config) -> list[Run]:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def _parents(config: Config) -> list[Run]:
    return [run for run in _runs(config) if "mlflow.parentRunId" not in run.data.tags]


def _children(config: Config) -> list[Run]:
    return [run for run in _runs(config) if "mlflow.parentRunId" in run.data.tags]


def _curve_of(config: Config, run: Run) -> list[tuple[int, float]]:
    """All points (epoch, loss), those that were logged twice also twice."""
    client = MlflowClient(tracking_uri=config.tracking.uri)
    history = client.get_metric_history(run.info.run_id, "loss")
    return sorted((point.step, point.value) for point in history)


def test_separate_processes_fill_one_run(config: Config, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    _train(config, paths)
    for miou, benchmark in enumerate(BENCHMARKS):
        _result(paths, benchmark, 10.0 * miou, "abc")
        # A tracker of its own, as in a process of its own.
        open_tracker(config, tmp_path).evaluation(config, paths, "fmbseg", [benchmark])

    (run,) = _parents(config)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"method": "fmbseg", **flat_params(config)}
    assert run.data.params["align.head"] == "transformer"
    assert {f"miou/{name}": run.data.metrics[f"miou/{name}"] for name in BENCHMARKS} == {
        "miou/voc21": 0.0,
        "miou/voc20": 10.0,
        "miou/coco_stuff": 20.0,
    }
    assert "pixel_accuracy/voc21" not in run.data.metrics
    assert run.data.tags["benchmark.voc20"] == "data/scenes/VOC2012 val"

    client = MlflowClient(tracking_uri=config.tracking.uri)
    names = {
        file.path
        for folder in ("checkpoint", "per_class_iou")
        for file in client.list_artifacts(run.info.run_id, folder)
    }
    assert names >= {"checkpoint/head.safetensors", "checkpoint/checkpoint.json"}
    assert names >= {f"per_class_iou/{name}.csv" for name in BENCHMARKS}
    table = client.download_artifacts(run.info.run_id, "per_class_iou/voc20.csv", str(tmp_path))
    assert Path(table).read_text() == 'class,iou\ndog,10.0000\n"tree, bush",\n'

    children = {child.info.run_name: child for child in _children(config)}
    assert set(children) == {"training-fmbseg", *(f"evaluate-{name}" for name in BENCHMARKS)}
    assert {one.data.tags["mlflow.parentRunId"] for one in children.values()} == {run.info.run_id}
    assert children["evaluate-voc20"].data.metrics["miou"] == 10.0
    assert children["evaluate-voc20"].data.params["split"] == "val of voc20"
    child = children["training-fmbseg"]
    assert child.info.status == "FINISHED"
    history = client.get_metric_history(child.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_another_head_is_another_run_and_logging_again_is_none(
    config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    for sha256, kind in (("abc", "transformer"), ("def", "linear"), ("def", "linear")):
        _checkpoint(paths.align, sha256)
        _result(paths, "voc21", 5.0, sha256)
        other = _head(config, kind)
        open_tracker(other, tmp_path).evaluation(other, paths, "fmbseg", ["voc21"])
    runs = _parents(config)
    assert sorted(run.data.params["align.head"] for run in runs) == ["linear", "transformer"]
    client = MlflowClient(tracking_uri=config.tracking.uri)
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "miou/voc21")) == 1
    # Their training was not tracked while it ran: the curve comes from the checkpoint's folder.
    trainings = [run for run in _children(config) if run.info.run_name == "training-fmbseg"]
    assert len(trainings) == 2
    assert {len(child.data.metrics) for child in trainings} == {2}
    assert len(_children(config)) == 4  # and a benchmark each


def test_results_that_needed_no_new_computation_are_in_the_run_too(
    config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    _checkpoint(paths.align, "abc")
    _result(paths, "voc20", 7.0, "abc")
    _result(paths, "coco_stuff", 8.0, "older checkpoint")
    _result(paths, "voc21", 9.0, "abc", without_held_out_glyphs={"miou": 9.5, "images": 3})
    open_tracker(config, tmp_path).evaluation(config, paths, "fmbseg", ["voc21"])
    (run,) = _parents(config)
    assert run.data.metrics["miou/voc20"] == 7.0
    assert "miou/coco_stuff" not in run.data.metrics
    assert run.data.metrics["miou_without_held_out_glyphs/voc21"] == 9.5


def test_a_baseline_is_a_run_of_its_own_with_the_same_columns(
    config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    _result(paths, "voc21", 3.0, None, method="maskclip")
    picture = Image.new("RGB", (8, 8), (200, 10, 10))
    tracker = open_tracker(config, tmp_path)
    tracker.evaluation(config, paths, "maskclip", ["voc21"], lambda benchmark: picture)
    (run,) = _parents(config)
    assert run.data.params["method"] == "maskclip"
    assert run.data.params["clip.model"] == "tiny-clip"
    # Nothing was trained: another head is no other baseline.
    assert "align.head" not in run.data.params
    other = _head(config, "linear")
    open_tracker(other, tmp_path).evaluation(other, paths, "maskclip", ["voc21"])
    assert len(_parents(config)) == 1
    assert run.data.metrics["miou/voc21"] == 3.0
    client = MlflowClient(tracking_uri=config.tracking.uri)
    assert [file.path for file in client.list_artifacts(run.info.run_id, "overlay")] == [
        "overlay/voc21.png"
    ]


def test_a_lucky_score_on_other_images_of_the_same_folder_is_no_champion(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = Paths(tmp_path)
    benchmark, name = config.tracking.champion_benchmark, config.tracking.model
    client = MlflowClient(tracking_uri=config.tracking.uri)

    def champion(sha256: str, miou: float, samples: str) -> str:
        """The checkpoint of the champion after this one was scored."""
        write_head(paths.align, seed=0, vocabulary="voc20")
        path = paths.align / "checkpoint.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": sha256}))
        _curve(paths.align)
        _result(paths, benchmark, miou, sha256, samples_sha256=samples)
        open_tracker(config, tmp_path).evaluation(config, paths, "fmbseg", [benchmark])
        run_id = client.get_model_version_by_alias(name, "champion").run_id
        return str(client.get_run(run_id).data.tags["fmbseg.checkpoint"])

    assert champion("first", 20.0, "all") == "first"
    assert champion("lucky", 90.0, "four of them") == "first"
    assert "compare by hand" in caplog.text
    assert champion("better", 20.1, "all") == "better"


def test_a_resumed_training_has_its_whole_curve(config: Config, tmp_path: Path) -> None:
    _train(config, Paths(tmp_path), epochs=(3,))
    (child,) = _children(config)
    assert _curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


KILLED = """
import sys, time
from pathlib import Path
from fmbseg.config import load_config
from fmbseg.tracking import open_tracker
params, root, *overrides = sys.argv[1:]
config = load_config(Path(params), overrides)
tracker = open_tracker(config, Path(root))
key = lambda: "content key of the training"
with tracker.training(config, "fmbseg", Path(root) / "data" / "align", key) as on_metrics:
    on_metrics(1, {"loss": 1.0, "lr": 0.1})
    print("epoch 1", flush=True)
    time.sleep(600)
"""


def _killed_after_its_first_epoch(config: Config, root: Path) -> None:
    section = config.tracking
    overrides = [f"tracking.{key}={getattr(section, key)}" for key in ("experiment", "uri")]
    training = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(PARAMS), str(root), *overrides],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PARAMS.parent)},
    )
    with training:
        assert training.stdout is not None
        assert training.stdout.readline() == "epoch 1\n"
        training.kill()


def test_a_killed_training_goes_on_in_its_own_run(config: Config, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    _killed_after_its_first_epoch(config, tmp_path)
    (parent,), (child,) = _parents(config), _children(config)
    assert child.info.run_name == "training-fmbseg"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params == {"method": "fmbseg", **flat_params(config)}
    assert [run.info.status for run in (parent, child)] == ["RUNNING", "RUNNING"]

    # The first epoch once more, as after a kill before the state was written.
    _train(config, paths)
    (again,), (resumed,) = _parents(config), _children(config)
    assert [again.info.run_id, resumed.info.run_id] == [parent.info.run_id, child.info.run_id]
    assert [run.info.status for run in (again, resumed)] == ["FINISHED", "FINISHED"]
    assert _curve_of(config, resumed) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert again.data.tags["fmbseg.key"] == run_key(config, "fmbseg", "abc")

    _result(paths, "voc21", 5.0, "abc")
    open_tracker(config, tmp_path).evaluation(config, paths, "fmbseg", ["voc21"])
    (scored,) = _parents(config)
    assert scored.info.run_id == parent.info.run_id
    assert scored.data.metrics["miou/voc21"] == 5.0


def test_a_training_killed_just_before_its_end_is_finished_by_its_score(
    config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    _killed_after_its_first_epoch(config, tmp_path)
    _checkpoint(paths.align, "abc")  # was published, and then the process died
    _result(paths, "voc21", 5.0, "abc")
    open_tracker(config, tmp_path).evaluation(config, paths, "fmbseg", ["voc21"])
    (run,) = _parents(config)
    assert run.info.status == "FINISHED"
    children = {child.info.run_name: child for child in _children(config)}
    assert set(children) == {"training-fmbseg", "evaluate-voc21"}
    assert {child.info.status for child in children.values()} == {"FINISHED"}
    assert _curve_of(config, children["training-fmbseg"]) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_failed_tries_are_marked_and_the_last_one_goes_on_in_their_run(
    config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    for epoch in (1, 2):
        tracker = open_tracker(config, tmp_path)
        with (
            pytest.raises(KeyboardInterrupt),
            tracker.training(config, "fmbseg", paths.align, lambda: KEY) as on_metrics,
        ):
            assert on_metrics is not None
            on_metrics(epoch, _metrics(epoch))
            raise KeyboardInterrupt
        assert [run.info.status for run in _runs(config)] == ["FAILED", "FAILED"]
        assert len(_parents(config)) == 1
    _train(config, paths, epochs=(3,))
    assert [run.info.status for run in _runs(config)] == ["FINISHED", "FINISHED"]
    (child,) = _children(config)
    assert _curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_curve_of_two_machines_is_replaced_by_that_of_the_head(
    config: Config, tmp_path: Path
) -> None:
    tracker = open_tracker(config, tmp_path)
    align = Paths(tmp_path).align
    with (
        pytest.raises(MemoryError),
        tracker.training(config, "fmbseg", align, lambda: KEY) as on_metrics,
    ):
        assert on_metrics is not None
        on_metrics(1, {"loss": 1.0001, "lr": 0.1})
        raise MemoryError
    _train(config, Paths(tmp_path))
    (child,) = _children(config)
    assert child.info.status == "FINISHED"
    assert _curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_resumed_with_a_parameter_of_another_stage_changed(config: Config, tmp_path: Path) -> None:
    _killed_after_its_first_epoch(config, tmp_path)
    section = config.evaluate.model_copy(update={"short_side": 17})
    _train(config.model_copy(update={"evaluate": section}), Paths(tmp_path), epochs=(2, 3))
    (parent,), (child,) = _parents(config), _children(config)
    assert parent.data.params["evaluate.short_side"] == "17"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert _curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_the_same_head_trained_twice_is_one_run(config: Config, tmp_path: Path) -> None:
    for _ in range(2):
        _train(config, Paths(tmp_path))
    (parent,), (child,) = _parents(config), _children(config)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert _curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_run_whose_maker_was_killed_gets_its_parameters(config: Config, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.create_experiment(config.tracking.experiment, tmp_path.as_uri())
    tags = {"fmbseg.key": run_key(config, "maskclip", None)}
    made = client.create_run(experiment, tags=tags)
    client.log_param(made.info.run_id, "method", "maskclip")  # of the first batch
    # The child run of a benchmark, killed at once as well.
    tags = {"mlflow.parentRunId": made.info.run_id}
    client.create_run(experiment, tags=tags, run_name="evaluate-voc21")

    paths = Paths(tmp_path)
    _result(paths, "voc21", 3.0, None, method="maskclip")
    open_tracker(config, tmp_path).evaluation(config, paths, "maskclip", ["voc21"])
    (run,), (child,) = _parents(config), _children(config)
    assert run.data.params == {"method": "maskclip", **flat_params(config, trained=False)}
    assert child.data.params["split"] == "val of voc21"
    assert child.data.metrics["miou"] == 3.0


def test_a_training_that_was_taken_over_is_logged_if_mlflow_missed_it(
    config: Config, tmp_path: Path
) -> None:
    align = Paths(tmp_path).align
    _checkpoint(align, "abc")
    ends = []
    for _ in range(2):
        with open_tracker(config, tmp_path).training(config, "fmbseg", align, lambda: KEY):
            pass
        (run,), (child,) = _parents(config), _children(config)
        assert run.info.status == child.info.status == "FINISHED"
        assert _curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
        ends.append((run.info.end_time, child.info.end_time))
    assert ends[0] == ends[1]


def test_what_mlflow_missed_is_logged_the_next_time_and_then_no_more(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = Paths(tmp_path)
    write_head(paths.align, seed=0, vocabulary="voc20")
    _curve(paths.align)
    sha256 = json.loads((paths.align / "checkpoint.json").read_text())["sha256"]
    _result(paths, "voc21", 5.0, sha256, samples_sha256="all")
    pictures = []

    def overlay(benchmark: str) -> Image.Image:
        pictures.append(benchmark)
        return Image.new("RGB", (8, 8))

    def track(uri: str, enabled: bool = True) -> None:
        section = config.tracking.model_copy(update={"uri": uri, "enabled": enabled})
        given = config.model_copy(update={"tracking": section})
        open_tracker(given, tmp_path).evaluation(given, paths, "fmbseg", ["voc21"], overlay)

    track("sqlite:////proc/nowhere/mlflow.db")
    assert "not in MLflow" in caplog.text
    track(config.tracking.uri, enabled=False)
    assert _runs(config) == [] and pictures == []
    caplog.clear()
    track(config.tracking.uri)
    before = {run.info.run_id: (run.info.end_time, run.data.tags) for run in _runs(config)}
    (run,) = _parents(config)
    assert run.data.metrics["miou/voc21"] == 5.0
    assert len(before) == 3 and pictures == ["voc21"]
    track(config.tracking.uri)
    assert before == {run.info.run_id: (run.info.end_time, run.data.tags) for run in _runs(config)}
    assert pictures == ["voc21"] and caplog.text == ""
    # Another score of the same head, as after a mistake in the truth was mended.
    _result(paths, "voc21", 6.0, sha256, samples_sha256="other")
    track(config.tracking.uri)
    (run,) = _parents(config)
    assert run.data.metrics["miou/voc21"] == 6.0 and len(pictures) == 2


def test_a_server_that_is_away_costs_its_waiting_time_once(config: Config, tmp_path: Path) -> None:
    section = config.tracking.model_copy(update={"uri": "http://127.0.0.1:10"})
    config = config.model_copy(update={"tracking": section})
    paths = Paths(tmp_path)
    _result(paths, "voc21", 3.0, None, method="maskclip")
    open_tracker(config, tmp_path).evaluation(config, paths, "maskclip", ["voc21"])
    start = time.monotonic()
    for _ in range(20):
        open_tracker(config, tmp_path).evaluation(config, paths, "maskclip", ["voc21"])
    assert time.monotonic() - start < 2


def test_disabled(config: Config, tmp_path: Path) -> None:
    section = config.tracking.model_copy(update={"enabled": False})
    config = config.model_copy(update={"tracking": section})
    paths = Paths(tmp_path)
    _checkpoint(paths.align, "abc")
    _result(paths, "voc21", 3.0, "abc")
    tracker = open_tracker(config, tmp_path)
    with tracker.training(config, "fmbseg", paths.align, lambda: KEY) as on_metrics:
        assert on_metrics is None
    tracker.evaluation(config, paths, "fmbseg", ["voc21"])
    assert _runs(config) == []


@pytest.mark.parametrize("uri", ["sqlite:////proc/nowhere/mlflow.db", "http://127.0.0.1:9"])
def test_a_broken_tracking_server_costs_a_warning_and_nothing_else(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    section = config.tracking.model_copy(update={"uri": uri})
    config = config.model_copy(update={"tracking": section})
    paths = Paths(tmp_path)
    tracker = open_tracker(config, tmp_path)
    with tracker.training(config, "fmbseg", paths.align, lambda: KEY) as on_metrics:
        assert on_metrics is not None
        for epoch in range(1, 4):
            on_metrics(epoch, {"loss": 1.0, "lr": 0.1})
        _checkpoint(paths.align, "abc")
    _result(paths, "voc21", 3.0, "abc")
    tracker.evaluation(config, paths, "fmbseg", ["voc21"])
    said = [record.getMessage() for record in caplog.records if "not in MLflow" in record.message]
    assert said
    assert all("complete on disk" in line and "\n" not in line for line in said)
    assert len(said) == len(set(said)) <= 3


def test_relative_database_lies_in_the_project_even_for_queued_experiments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    for root in (tmp_path, copy):
        assert tracking_uri("sqlite:///mlflow.db", root) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("sqlite:////srv/m.db", copy) == "sqlite:////srv/m.db"
    assert tracking_uri("http://mlflow:5000", copy) == "http://mlflow:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri("sqlite:///mlflow.db", tmp_path) == "http://server:5000"


def _pseudo_labels(paths: Paths, rows: list[tuple[str, int | None, float | None, float]]) -> None:
    """An out of `label` of two images, which the present head was trained on."""
    paths.label.mkdir(parents=True)
    same = {"image_id": "a", "mask_id": 0, "rle": "", "height": 1, "width": 1, "area": 1}
    keys = ("source", "class_index", "similarity", "predicted_iou")
    table = [same | dict(zip(keys, row, strict=True)) for row in rows]
    write_table(paths.label / MASKS, table, MASKS_SCHEMA)
    manifest = {"key": "k", "files": {}, "images_digest": "i", "images": 2}
    (paths.label / "manifest.json").write_text(json.dumps(manifest))
    path = paths.align / "checkpoint.json"
    record = json.loads(path.read_text()) | {"metrics": {"labelled_patches": 0.5}}
    record["training"]["labels"] = published_digest(paths.label)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("first", ["fmbseg", "pseudo"])
def test_quality_of_the_pseudo_labels(config: Config, tmp_path: Path, first: str) -> None:
    paths = Paths(tmp_path)
    label = config.label.model_copy(update={"min_similarity": 0.25})
    config = config.model_copy(update={"label": label})
    write_head(paths.align, seed=0, vocabulary="voc20")
    _curve(paths.align)
    sha256 = checkpoint_sha256(paths.align)
    _pseudo_labels(
        paths,
        [
            ("query", 3, 0.5, 0.75),
            ("automatic", 3, 0.25, 0.25),
            ("automatic", 3, 0.125, 1.0),  # not similar enough to be painted
            ("automatic", None, None, 1.0),  # no class was detected in its image
        ],
    )
    _result(paths, "voc21", 20.0, sha256)
    _result(paths, "voc21", 30.0, None, method="pseudo")
    for method in (first, {"fmbseg": "pseudo", "pseudo": "fmbseg"}[first]):
        open_tracker(config, tmp_path).evaluation(config, paths, method, ["voc21"])
    (run,) = [run for run in _parents(config) if run.data.params["method"] == "fmbseg"]
    found = {key: v for key, v in run.data.metrics.items() if key.startswith("pseudo_labels/")}
    assert found == {
        "pseudo_labels/classes_per_image": 0.5,
        "pseudo_labels/masks_per_image": 2.0,
        "pseudo_labels/labelled_patches": 0.5,
        "pseudo_labels/similarity": 0.375,
        "pseudo_labels/predicted_iou": 0.5,
        "pseudo_labels/miou/voc21": 30.0,
    }


def test_pseudo_labels_of_one_half_of_stage_1(config: Config, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    write_head(paths.align, seed=0, vocabulary="voc20")
    _pseudo_labels(paths, [("query", 3, 0.5, 0.75), ("automatic", 3, 0.25, 0.25)])
    labels = trained_labels(paths)
    assert labels is not None

    def figures(**changed: object) -> dict[str, float]:
        section = config.label.model_copy(update={"min_similarity": -1.0, **changed})
        return stage_figures(config.model_copy(update={"label": section}), paths, labels)

    assert figures(use_masks=False)["pseudo_labels/similarity"] == 0.5
    assert figures(use_queries=False)["pseudo_labels/similarity"] == 0.25
    # Nothing was painted at all.
    assert "pseudo_labels/similarity" not in figures(min_similarity=0.9)


def test_a_browser_finds_the_run_where_the_environment_says(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FMBSEG_MLFLOW_UI", raising=False)
    assert ui_address("http://127.0.0.1:5000/") == "http://127.0.0.1:5000"
    assert ui_address("https://me:secret@mlflow.example.org/a") == "https://mlflow.example.org/a"
    assert ui_address("sqlite:////srv/mlflow.db") is None

    paths = Paths(tmp_path)
    _checkpoint(paths.align, "abc")
    _result(paths, "voc21", 3.0, "abc")
    tracker = open_tracker(config, tmp_path)
    tracker.evaluation(config, paths, "fmbseg", ["voc21"])
    (run,) = _parents(config)
    assert tracker.run_link(config, paths) == f"run {run.info.run_id} (`make ui`)"
    monkeypatch.setenv("FMBSEG_MLFLOW_UI", "http://127.0.0.1:5055/")
    page = f"http://127.0.0.1:5055/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert tracker.run_link(config, paths) == page
    assert ui_address("http://mlflow:5000") == "http://127.0.0.1:5055"


def test_key_depends_on_method_checkpoint_and_what_changes_a_result(config: Config) -> None:
    key = run_key(config, "fmbseg", "abc")
    assert run_key(config, "oracle", "abc") != key
    assert run_key(config, "fmbseg", "def") != key
    assert run_key(_head(config, "mlp"), "fmbseg", "abc") != key
    same = load_config(
        PARAMS, ["tracking.enabled=false", "run.cache_gb=0", "evaluate.benchmarks={}"]
    )
    assert run_key(same, "fmbseg", "abc") == key


def test_class_table_quotes_names() -> None:
    assert class_table({"per_class_iou": {'a "b", c': 1.0}}) == 'class,iou\n"a ""b"", c",1.0000\n'
