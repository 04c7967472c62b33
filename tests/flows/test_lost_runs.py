"""Parts of a real stack are killed one by one: what goes on, and what is said of what has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun

from flows.lost import FLOW_RUN
from tests.flows.stack import Stack, drawing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("killed") / "fmbseg"
    with drawing(repository, root, train=1500) as made:
        yield made


def until(what: str, is_so: Callable[[], object], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.5)


def state(project: Stack, run: FlowRun) -> str:
    return project.state(run).name or ""


def begin(project: Stack) -> tuple[FlowRun, psutil.Process]:
    """A run that draws scenes, and its process."""
    forget(project)
    scenes = ("-p", 'stages=["scenes"]', "-p", "record=false")
    project.run("prefect", "deployment", "run", "fmbseg/full", *scenes)
    run = project.newest_run()
    working = project.root / ".fmbseg"
    until("the run works", lambda: state(project, run) == "Running" and list(working.rglob("0*")))
    return run, next(each for each in psutil.process_iter() if works_at(each, run))


def works_at(process: psutil.Process, run: FlowRun) -> bool:
    try:
        return process.environ().get(FLOW_RUN) == str(run.id)
    except psutil.Error:
        return False


def forget(project: Stack) -> None:
    """Undo what is drawn, so that the next run has work."""
    project.run("sh", "-c", "rm -rf data .fmbseg")


def test_a_run_whose_worker_and_process_were_killed_is_crashed_when_a_worker_starts(
    project: Stack,
) -> None:
    run, process = begin(project)
    os.kill(project.processes()["worker"], signal.SIGKILL)
    process.kill()
    time.sleep(5)
    assert state(project, run) == "Running"  # nobody has said otherwise
    said = project.stack("start")
    assert "starting worker (" in said
    until("it is crashed", lambda: state(project, run) == "Crashed")
    assert "its process is gone" in (project.state(run).message or "")
    assert {task.state_name for task in project.tasks(run)} == {"Crashed"}


def test_no_other_run_begins_while_one_of_a_killed_worker_still_works(project: Stack) -> None:
    run, process = begin(project)
    os.kill(project.processes()["worker"], signal.SIGKILL)
    said = project.stack("start")
    scenes = ("-p", 'stages=["scenes"]', "-p", "record=false")
    project.run("prefect", "deployment", "run", "fmbseg/full", *scenes)
    other = project.newest_run()
    waited = 0
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert state(project, other) in ("Scheduled", "Late", "AutoScheduled")
        waited += 1
        time.sleep(1.0)
    # It ends at the next line that it has to say, for nobody reads what it prints any more.
    assert not waited or "works on: the new one waits" in said
    until("it has ended", lambda: project.state(run).is_final())
    assert state(project, run) in ("Completed", "Crashed")
    until("the other one completes", lambda: project.state(other).is_final())
    assert state(project, other) == "Completed", project.state(other).message


def test_mlflow_dies_alone_and_comes_back_alone(project: Stack) -> None:
    run, process = begin(project)
    before = project.processes()
    os.kill(before["mlflow"], signal.SIGKILL)
    time.sleep(2)
    assert {*project.processes()} == {"prefect", "worker"}
    assert process.is_running()
    said = project.stack("start")
    assert "starting mlflow (" in said
    after = project.processes()
    assert {name: after[name] for name in ("prefect", "worker")} == {
        name: before[name] for name in ("prefect", "worker")
    }
    until("the run ends", lambda: project.state(run).is_final())
    assert state(project, run) == "Completed", project.state(run).message


def test_a_stage_of_the_command_line_that_was_killed_is_crashed(project: Stack) -> None:
    forget(project)
    command = [sys.executable, "-m", "fmbseg", "run", "scenes"]
    environment = project.environment | project.address
    stage = subprocess.Popen(
        command, cwd=project.root, env=environment, stderr=subprocess.DEVNULL, text=True
    )
    until("it draws", lambda: list((project.root / ".fmbseg").rglob("0*")))
    stage.kill()
    stage.wait()
    run = project.newest_run()
    assert state(project, run) == "Running"
    # The worker looks every half minute, and believes it the second time.
    until("it is crashed", lambda: state(project, run) == "Crashed")
