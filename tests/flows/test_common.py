"""Tasks against a real Prefect server: cached by content, tried again when it may help."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect import flow, get_run_logger
from prefect.artifacts import update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.testing.utilities import prefect_test_harness

from flows import progress as flow_progress
from flows import stages as flow_stages
from flows.common import is_transient
from flows.progress import PrefectProgress
from flows.stages import TASKS, call_task
from fmbseg.config import Config, parse_config
from fmbseg.errors import DataError
from fmbseg.paths import Paths
from fmbseg.progress import silent_progress
from fmbseg.stages import run_stage, stage_state
from fmbseg.store import StageReport


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


def _task_states(flow_run_id: object) -> list[str]:
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        return [run.state_name for run in client.read_task_runs(flow_run_filter=wanted)]


@pytest.mark.slow
def test_a_task_is_cached_under_the_stores_key_and_notices_lost_files(
    server: None, config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    first = one_stage(config, tmp_path)
    state = stage_state("scenes", config, paths, silent_progress())
    assert state.published
    assert first == {"stage": "scenes", "key": state.key, "computed": 2, "taken_over": 0}

    again = one_stage(config, tmp_path, return_state=True)
    assert _task_states(again.state_details.flow_run_id) == ["Cached"]
    assert again.result() == first | {"computed": 0, "taken_over": 2}

    (paths.scenes / "manifest.json").unlink()
    one_stage(config, tmp_path)
    assert (paths.scenes / "manifest.json").is_file()

    # In another folder the server's memory is worth nothing: the scenes are not there.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    one_stage(config, elsewhere)
    assert stage_state("scenes", config, Paths(elsewhere), silent_progress()).published


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "tries"), [(torch.OutOfMemoryError("injected"), 2), (DataError("injected"), 1)]
)
def test_only_what_may_pass_is_tried_again(
    server: None,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    tries: int,
) -> None:
    calls = []

    def fails_once(*arguments: object) -> StageReport:
        calls.append(arguments[0])
        if len(calls) == 1:
            raise error
        return run_stage(*arguments)

    monkeypatch.setattr(flow_stages, "run_stage", fails_once)
    monkeypatch.setitem(
        TASKS,
        "scenes",
        TASKS["scenes"].with_options(retry_delay_seconds=0),  # type: ignore[index]
    )
    done = one_stage(config, tmp_path, return_state=True)
    assert len(calls) == tries
    assert done.is_completed() == (tries == 2)


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
