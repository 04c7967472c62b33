"""Tasks against a real Prefect server: cached by content, tried again when it may help."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from prefect import flow, get_run_logger
from prefect.artifacts import update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, TaskRun
from prefect.testing.utilities import prefect_test_harness

from flows import common as flow_common
from flows import progress as flow_progress
from flows import scale as flow_scale
from flows.common import RETRY_DELAYS, is_transient, try_again
from flows.full import show_results
from flows.progress import PrefectProgress
from flows.stages import call_task
from fmbseg.config import Config, parse_config
from fmbseg.errors import DataError, StoreError
from fmbseg.evaluate.results import write_result
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import open_stage, run_stage
from fmbseg.store.paths import Paths
from fmbseg.store.shards import ShardedWork
from tests.heads import write_head

RETRIES = len(RETRY_DELAYS)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out of memory"),
        MemoryError(),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
def test_what_may_pass(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        DataError("broken image"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        PermissionError(errno.EACCES, "denied"),
        OSError(errno.ENOSPC, "disk full"),
        ValueError("a bug"),
    ],
)
def test_what_stays(error: Exception) -> None:
    assert not is_transient(error)


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=600):
        with get_client(sync_client=True) as client:
            client.upsert_global_concurrency_limit_by_name("gpu", 1)
        yield


@pytest.fixture
def config() -> Config:
    return parse_config(
        {
            "run": {"threads": 1},
            "scenes": {"layouts": {"voc2012": {"val": 2}}},
            "tracking": {"enabled": False},
        }
    )


@flow(name="one-stage")
def one_stage(config: Config, root: Path) -> dict[str, object]:
    return call_task("scenes", config, root)


def _tasks(flow_state: State[Any]) -> list[TaskRun]:
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilterId(any_=[flow_state.state_details.flow_run_id])
        found: list[TaskRun] = client.read_task_runs(flow_run_filter=FlowRunFilter(id=wanted))
        return found


@flow(name="results-shown")
def results_shown(config: Config, root: Path) -> None:
    show_results(config, root, [])


@pytest.mark.slow
def test_scores_of_an_earlier_head_are_not_shown_as_the_present_ones(
    server: None, config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    for method, benchmark, sha256 in (
        ("fmbseg", "voc21", "first"),
        ("fmbseg", "voc20", "second"),
        ("maskclip", "voc21", None),
    ):
        result = {"benchmark": benchmark, "method": method, "miou": 59.2934, "images": 4}
        more = {"pixel_accuracy": 80.06, "checkpoint_sha256": sha256}
        write_result(result | more, paths.metrics / method / f"{benchmark}.json")

    def rows(present: str) -> list[list[object]]:
        paths.align.mkdir(parents=True, exist_ok=True)
        (paths.align / "checkpoint.json").write_text(json.dumps({"sha256": present}))
        results_shown(config, tmp_path)
        with get_client(sync_client=True) as client:
            found = [one for one in client.read_artifacts(limit=200) if one.key == "fmbseg-miou"]
        newest = max(found, key=lambda one: str(one.created))
        return [list(row.values()) for row in json.loads(str(newest.data))]

    clip = ["maskclip", "voc21", 59.3, 80.1, 4]
    assert rows("first") == [["fmbseg", "voc21", 59.3, 80.1, 4], clip]
    assert rows("second") == [["fmbseg", "voc20", 59.3, 80.1, 4], clip]
    assert rows("third") == [clip]


@pytest.mark.slow
def test_a_task_is_cached_under_the_stores_key_and_notices_lost_files(
    server: None, config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    first = one_stage(config, tmp_path)
    scenes = open_stage("scenes", config, paths, silent_progress())
    assert scenes.published
    assert first == {"stage": "scenes", "key": scenes.key, "computed": 2, "taken_over": 0}

    again = one_stage(config, tmp_path, return_state=True)
    assert [run.state_name for run in _tasks(again)] == ["Cached"]
    assert again.result() == first | {"computed": 0, "taken_over": 2}

    (paths.scenes / "manifest.json").unlink()
    one_stage(config, tmp_path)
    assert (paths.scenes / "manifest.json").is_file()

    # In another folder the server's memory is worth nothing: the scenes are not there.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    one_stage(config, elsewhere)
    assert open_stage("scenes", config, Paths(elsewhere), silent_progress()).published


@flow(name="some-stages")
def some_stages(names: list[str], config: Config, root: Path) -> None:
    for name in names:
        call_task(name, config, root)


@pytest.mark.slow
def test_what_is_cached_is_logged_where_mlflow_has_missed_it(
    server: None, config: Config, tmp_path: Path
) -> None:
    benchmarks = {"voc21": {"root": "data/scenes/VOC2012", "split": "val"}}
    evaluate = {"benchmarks": benchmarks, "short_side": 64}
    head = {"align": {"head": "linear"}, "features": {"short_side": 64}}  # as `write_head` says
    config = parse_config(config.model_dump() | {"evaluate": evaluate, **head})
    align = Paths(tmp_path).align
    write_head(align, seed=0)
    (align / "curve.csv").write_text("epoch,loss,lr\n1,0.5,0.1\n")
    run_stage(open_stage("scenes", config, Paths(tmp_path), silent_progress()))
    names = ["evaluate@voc21", "baselines@voc21"]

    def states(given: Config) -> list[str]:
        done = some_stages(names, given, tmp_path, return_state=True)
        return [str(run.state_name) for run in _tasks(done)]

    assert states(config) == ["Completed", "Completed"]  # and MLflow is switched off
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking = config.tracking.model_copy(update={"enabled": True, "uri": uri})
    assert states(config.model_copy(update={"tracking": tracking})) == ["Cached", "Cached"]
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    runs = {run.data.params["method"]: run for run in found if "method" in run.data.params}
    assert set(runs) == {"fmbseg", "maskclip", "pseudo"}
    assert all("miou/voc21" in run.data.metrics for run in runs.values())


def _fail_the_first_try(
    monkeypatch: pytest.MonkeyPatch, error: Exception, times: int = 1
) -> dict[int, int]:
    """Every shard raises so often before it is computed; returns the tries of each."""
    tries: dict[int, int] = {}
    compute = ShardedWork.compute

    def fails(work: ShardedWork[Any], index: int) -> None:
        tries[index] = tries.get(index, 0) + 1
        if tries[index] <= times:
            raise error
        compute(work, index)

    monkeypatch.setattr(ShardedWork, "compute", fails)
    monkeypatch.setattr(flow_common, "RETRY_DELAYS", [0.0] * RETRIES)
    return tries


@pytest.fixture
def shards() -> Config:
    """Six shards of an image: more than a task may fail in a row."""
    return parse_config(
        {
            "run": {"threads": 1, "shard_size": 1},
            "scenes": {"layouts": {"coco_stuff164k": {"val": 6}}},
            "data": {"split": "val2017"},
            "tracking": {"enabled": False},
        }
    )


@pytest.mark.slow
def test_every_shard_may_fail_and_be_tried_again(
    server: None,
    shards: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries = _fail_the_first_try(monkeypatch, torch.OutOfMemoryError("injected"))
    done = some_stages(["scenes", "detect"], shards, tmp_path, return_state=True)
    assert done.is_completed()
    assert tries == dict.fromkeys(range(6), 2)
    (run,) = [run for run in _tasks(done) if run.name == "detect"]
    assert run.run_count == 1
    told = [line for line in caplog.messages if line.startswith("a shard of detect: tried again")]
    assert len(told) == 6 and all("injected" in line for line in told)


@pytest.mark.slow
def test_a_shard_that_always_fails_ends_the_run(
    server: None, shards: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = _fail_the_first_try(monkeypatch, torch.OutOfMemoryError("injected"), times=99)
    done = some_stages(["scenes", "detect"], shards, tmp_path, return_state=True)
    assert done.is_failed()
    assert tries == {0: 1 + RETRIES}
    assert "a shard of detect failed 4 times in a row (injected): run it again" in str(done.message)


@pytest.mark.slow
def test_a_users_mistake_is_not_tried_again(
    server: None, shards: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = _fail_the_first_try(monkeypatch, DataError("injected"))
    assert some_stages(["scenes", "detect"], shards, tmp_path, return_state=True).is_failed()
    assert tries == {0: 1}


@pytest.mark.slow
def test_changed_code_is_not_taken_for_what_this_process_runs(
    server: None, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edited.py").write_text("# during the run\n")
    monkeypatch.setattr(flow_scale, "PACKAGE", tmp_path)
    with pytest.raises(StoreError, match="code has changed since this run began"):
        one_stage(config, tmp_path)


def test_work_outside_tasks_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_common, "RETRY_DELAYS", [0.0, 0.0, 0.0])
    errors = [OSError(errno.EIO, "disk"), TimeoutError()]

    def call() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert try_again("work", call) == "done"
    errors += [DataError("broken")]
    with pytest.raises(DataError):
        try_again("work", call)
    errors += [TimeoutError()] * 9
    with pytest.raises(StoreError, match=r"work failed 4 times in a row \(TimeoutError\)"):
        try_again("work", call)
    assert len(errors) == 9 - 1 - RETRIES


@pytest.mark.slow
def test_a_stage_without_its_slot_says_what_to_do(
    server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.common import gpu_slot
    from fmbseg.errors import ConfigError

    monkeypatch.setenv("FMBSEG_GPU_LIMIT", "nowhere")
    with pytest.raises(ConfigError, match="prefect gcl create nowhere --limit 1"), gpu_slot():
        raise AssertionError("the slot was given")
    monkeypatch.setenv("FMBSEG_GPU_LIMIT", "")
    with gpu_slot():
        assert os.environ["FMBSEG_GPU_LIMIT"] == ""


@pytest.mark.slow
def test_progress_is_shown_and_hardly_ever_waits_for_the_server(
    server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def tell(*given: Any, **named: Any) -> Any:
        told.append(given[1])
        return update_progress_artifact(*given, **named)

    monkeypatch.setattr(flow_progress, "update_progress_artifact", tell)

    @flow(name="progress")
    def advances() -> None:
        progress = PrefectProgress("shown", get_run_logger(), interval=0.0)
        with progress.task("images", 1000) as task:
            for _ in range(1000):
                task.advance()

    advances()
    assert len(told) < 10  # a thousand quick steps are not a thousand requests
    assert told[-1] == 100.0
    with get_client(sync_client=True) as client:
        shown = [each for each in client.read_artifacts() if each.key == "progress-shown"]
    assert [each.data for each in shown] == [100.0]
