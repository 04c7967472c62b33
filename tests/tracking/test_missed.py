"""What MLflow missed, and doing without it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from PIL import Image

from fmbseg.config import Config
from fmbseg.store.paths import Paths
from fmbseg.tracking.mlflow_runs import tracking_uri
from fmbseg.tracking.open import open_tracker
from tests.heads import write_head
from tests.tracking.world import (
    KEY,
    all_runs,
    child_runs,
    curve_of,
    parent_runs,
    write_checkpoint,
    write_curve,
    write_result,
)


def test_a_training_that_was_taken_over_is_logged_if_mlflow_missed_it(
    config: Config, tmp_path: Path
) -> None:
    align = Paths(tmp_path).align
    write_checkpoint(align, "abc")
    ends = []
    for _ in range(2):
        with open_tracker(config, tmp_path).training(config, "fmbseg", align, lambda: KEY):
            pass
        (run,), (child,) = parent_runs(config), child_runs(config)
        assert run.info.status == child.info.status == "FINISHED"
        assert curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
        ends.append((run.info.end_time, child.info.end_time))
    assert ends[0] == ends[1]


def test_what_mlflow_missed_is_logged_the_next_time_and_then_no_more(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = Paths(tmp_path)
    write_head(paths.align, 0, "voc20")
    write_curve(paths.align)
    sha256 = json.loads((paths.align / "checkpoint.json").read_text())["sha256"]
    write_result(paths, "voc21", 5.0, sha256, samples_sha256="all")
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
    assert all_runs(config) == [] and pictures == []
    caplog.clear()
    track(config.tracking.uri)
    before = {run.info.run_id: (run.info.end_time, run.data.tags) for run in all_runs(config)}
    (run,) = parent_runs(config)
    assert run.data.metrics["miou/voc21"] == 5.0
    assert len(before) == 3 and pictures == ["voc21"]
    track(config.tracking.uri)
    assert before == {
        run.info.run_id: (run.info.end_time, run.data.tags) for run in all_runs(config)
    }
    assert pictures == ["voc21"] and caplog.text == ""
    # Another score of the same head, as after a mistake in the truth was mended.
    write_result(paths, "voc21", 6.0, sha256, samples_sha256="other")
    track(config.tracking.uri)
    (run,) = parent_runs(config)
    assert run.data.metrics["miou/voc21"] == 6.0 and len(pictures) == 2


def test_a_server_that_is_away_costs_its_waiting_time_once(config: Config, tmp_path: Path) -> None:
    section = config.tracking.model_copy(update={"uri": "http://127.0.0.1:10"})
    config = config.model_copy(update={"tracking": section})
    paths = Paths(tmp_path)
    write_result(paths, "voc21", 3.0, None, method="maskclip")
    open_tracker(config, tmp_path).evaluation(config, paths, "maskclip", ["voc21"])
    start = time.monotonic()
    for _ in range(20):
        open_tracker(config, tmp_path).evaluation(config, paths, "maskclip", ["voc21"])
    assert time.monotonic() - start < 2


def test_disabled(config: Config, tmp_path: Path) -> None:
    section = config.tracking.model_copy(update={"enabled": False})
    config = config.model_copy(update={"tracking": section})
    paths = Paths(tmp_path)
    write_checkpoint(paths.align, "abc")
    write_result(paths, "voc21", 3.0, "abc")
    tracker = open_tracker(config, tmp_path)
    with tracker.training(config, "fmbseg", paths.align, lambda: KEY) as on_metrics:
        assert on_metrics is None
    tracker.evaluation(config, paths, "fmbseg", ["voc21"])
    assert all_runs(config) == []


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
        write_checkpoint(paths.align, "abc")
    write_result(paths, "voc21", 3.0, "abc")
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
