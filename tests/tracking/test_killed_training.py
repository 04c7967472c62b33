"""Trainings: their curves, and those that were killed, resumed or tried again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fmbseg.config import Config
from fmbseg.store.paths import Paths
from fmbseg.tracking.mlflow_runs import KEY as RUN_KEY
from fmbseg.tracking.open import open_tracker
from fmbseg.tracking.run_content import run_key, run_params
from tests.tracking.world import (
    KEY,
    PARAMS,
    all_runs,
    child_runs,
    curve_of,
    epoch_metrics,
    parent_runs,
    train,
    write_checkpoint,
    write_result,
)


def test_a_resumed_training_has_its_whole_curve(config: Config, tmp_path: Path) -> None:
    train(config, Paths(tmp_path), epochs=(3,))
    (child,) = child_runs(config)
    assert curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


KILLED = """
import sys, time
from pathlib import Path
from fmbseg.config import load_config
from fmbseg.tracking.mlflow_runs import KEY as RUN_KEY
from fmbseg.tracking.open import open_tracker
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
    (parent,), (child,) = parent_runs(config), child_runs(config)
    assert child.info.run_name == "training-fmbseg"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params == {"method": "fmbseg", **run_params(config, "fmbseg")}
    assert [run.info.status for run in (parent, child)] == ["RUNNING", "RUNNING"]

    # The first epoch once more, as after a kill before the state was written.
    train(config, paths)
    (again,), (resumed,) = parent_runs(config), child_runs(config)
    assert [again.info.run_id, resumed.info.run_id] == [parent.info.run_id, child.info.run_id]
    assert [run.info.status for run in (again, resumed)] == ["FINISHED", "FINISHED"]
    assert curve_of(config, resumed) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert again.data.tags[RUN_KEY] == run_key(config, "fmbseg", "abc")

    write_result(paths, "voc21", 5.0, "abc")
    open_tracker(config, tmp_path).evaluation(config, paths, "fmbseg", ["voc21"])
    (scored,) = parent_runs(config)
    assert scored.info.run_id == parent.info.run_id
    assert scored.data.metrics["miou/voc21"] == 5.0


def test_a_training_killed_just_before_its_end_is_finished_by_its_score(
    config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    _killed_after_its_first_epoch(config, tmp_path)
    write_checkpoint(paths.align, "abc")  # was published, and then the process died
    write_result(paths, "voc21", 5.0, "abc")
    open_tracker(config, tmp_path).evaluation(config, paths, "fmbseg", ["voc21"])
    (run,) = parent_runs(config)
    assert run.info.status == "FINISHED"
    children = {child.info.run_name: child for child in child_runs(config)}
    assert set(children) == {"training-fmbseg", "evaluate-voc21"}
    assert {child.info.status for child in children.values()} == {"FINISHED"}
    assert curve_of(config, children["training-fmbseg"]) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


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
            on_metrics(epoch, epoch_metrics(epoch))
            raise KeyboardInterrupt
        assert [run.info.status for run in all_runs(config)] == ["FAILED", "FAILED"]
        assert len(parent_runs(config)) == 1
    train(config, paths, epochs=(3,))
    assert [run.info.status for run in all_runs(config)] == ["FINISHED", "FINISHED"]
    (child,) = child_runs(config)
    assert curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


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
    train(config, Paths(tmp_path))
    (child,) = child_runs(config)
    assert child.info.status == "FINISHED"
    assert curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_resumed_with_a_parameter_of_another_stage_changed(config: Config, tmp_path: Path) -> None:
    _killed_after_its_first_epoch(config, tmp_path)
    section = config.evaluate.model_copy(update={"short_side": 17})
    train(config.model_copy(update={"evaluate": section}), Paths(tmp_path), epochs=(2, 3))
    (parent,), (child,) = parent_runs(config), child_runs(config)
    assert parent.data.params["evaluate.short_side"] == "17"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_the_same_head_trained_twice_is_one_run(config: Config, tmp_path: Path) -> None:
    for _ in range(2):
        train(config, Paths(tmp_path))
    (parent,), (child,) = parent_runs(config), child_runs(config)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert curve_of(config, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_run_whose_maker_was_killed_gets_its_parameters(config: Config, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.create_experiment(config.tracking.experiment, tmp_path.as_uri())
    tags = {RUN_KEY: run_key(config, "maskclip", None)}
    made = client.create_run(experiment, tags=tags)
    client.log_param(made.info.run_id, "method", "maskclip")  # of the first batch
    # The child run of a benchmark, killed at once as well.
    tags = {"mlflow.parentRunId": made.info.run_id}
    client.create_run(experiment, tags=tags, run_name="evaluate-voc21")

    paths = Paths(tmp_path)
    write_result(paths, "voc21", 3.0, None, method="maskclip")
    open_tracker(config, tmp_path).evaluation(config, paths, "maskclip", ["voc21"])
    (run,), (child,) = parent_runs(config), child_runs(config)
    assert run.data.params == {"method": "maskclip", **run_params(config, "maskclip")}
    assert child.data.params["split"] == "val of voc21"
    assert child.data.metrics["miou"] == 3.0
