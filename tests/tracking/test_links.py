"""The address of a run in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmbseg.config import Config
from fmbseg.store.paths import Paths
from fmbseg.tracking.mlflow_runs import ui_address
from fmbseg.tracking.open import open_tracker
from tests.tracking.world import parent_runs, write_checkpoint, write_result


def test_a_browser_finds_the_run_where_the_environment_says(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FMBSEG_MLFLOW_UI", raising=False)
    assert ui_address("http://127.0.0.1:5000/") == "http://127.0.0.1:5000"
    assert ui_address("https://me:secret@mlflow.example.org/a") == "https://mlflow.example.org/a"
    assert ui_address("sqlite:////srv/mlflow.db") is None

    paths = Paths(tmp_path)
    write_checkpoint(paths.align, "abc")
    write_result(paths, "voc21", 3.0, "abc")
    tracker = open_tracker(config, tmp_path)
    tracker.evaluation(config, paths, "fmbseg", ["voc21"])
    (run,) = parent_runs(config)
    assert tracker.run_link(config, paths) == f"run {run.info.run_id} (`make ui`)"
    monkeypatch.setenv("FMBSEG_MLFLOW_UI", "http://127.0.0.1:5055/")
    page = f"http://127.0.0.1:5055/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert tracker.run_link(config, paths) == page
    assert ui_address("http://mlflow:5000") == "http://127.0.0.1:5055"
