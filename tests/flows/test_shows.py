"""The whole machine for real: `make stack`'s servers, the deployments, and DVC after them."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.project import Project, copy_project

pytestmark = pytest.mark.slow


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Stack(Project):
    """A scratch project with its stack on ports of its own."""

    def __init__(self, root: Path, ports: list[int]) -> None:
        super().__init__(root)
        self.ports = ports
        self.environment["FMBSEG_PREFECT_PORT"] = str(ports[0])
        self.environment["FMBSEG_MLFLOW_PORT"] = str(ports[1])

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}/api"

    def stack(self, action: str) -> str:
        return self.run("python", "-m", "flows.stack", action)

    def deployment(self, name: str, *parameters: str) -> tuple[str, str, dict[str, str]]:
        """Run a deployment to its end.

        Returns:
            The flow run's state and its message, and the state of each task by its name.
        """
        # No address is given: the command finds the stack in this folder, as a user's does.
        options = [part for entry in parameters for part in ("-p", entry)]
        self.try_run("prefect", "deployment", "run", f"fmbseg/{name}", "--watch", *options)
        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as api:
            (run,) = api.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
            wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            tasks = api.read_task_runs(flow_run_filter=wanted)
            assert run.state is not None
            states = {task.name: task.state_name for task in tasks}
            return run.state.name, run.state.message or "", states


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("project") / "fmbseg"
    copy_project(repository, root)
    made = Stack(root, _free_ports(2))
    try:
        assert made.api.removesuffix("/api") in made.stack("start")
        made.stack("deploy")
        yield made
    finally:
        made.try_run("python", "-m", "flows.stack", "stop")
        shutil.rmtree(root, ignore_errors=True)


# The tests go on from one another: the first pays for all of them.


def test_after_the_deployment_dvc_runs_nothing(project: Stack) -> None:
    state, message, tasks = project.deployment("full", "preset=tiny")
    assert state == "Completed", message
    assert set(tasks.values()) == {"Completed"}
    assert {"scenes", "detect", "evaluate@voc21", "baselines@coco_stuff", "oracle"} <= set(tasks)
    assert project.repro() == set()
    assert "up to date" in project.run("dvc", "status")
    changed = {line[3:] for line in project.run("git", "status", "--short").splitlines()}
    assert changed == {"dvc.lock", "metrics/"}


def test_the_same_again_is_cached(project: Stack) -> None:
    state, _, tasks = project.deployment("full")
    assert state == "Completed"
    assert tasks.pop("record") == "Completed"
    assert set(tasks.values()) == {"Cached"}


def test_a_truncated_file_is_noticed_and_made_again(project: Stack) -> None:
    path = project.root / "data" / "pseudo" / "detect" / "detections.parquet"
    before = path.read_bytes()
    path.write_bytes(before[:-7])
    state, message, tasks = project.deployment("pseudo-labels")
    assert state == "Completed", message
    assert path.read_bytes() == before
    assert (tasks["detect"], tasks["masks"]) == ("Completed", "Cached")
    assert project.repro() == set()


def test_its_results_are_shown(project: Stack) -> None:
    with temporary_settings({PREFECT_API_URL: project.api}), get_client(sync_client=True) as api:
        shown = {str(one.key): str(one.data) for one in api.read_artifacts(limit=200)}
    assert "maskclip" in shown["fmbseg-miou"]
    assert f"http://127.0.0.1:{project.ports[1]}/#/experiments/" in shown["fmbseg-run"]
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{project.ports[1]}")
    champion = client.get_model_version_by_alias("fmbseg", "champion")
    assert "miou/voc21" in client.get_run(champion.run_id).data.metrics


def test_other_parameters_are_not_recorded_and_mistakes_are_one_line(project: Stack) -> None:
    lock = (project.root / "dvc.lock").read_bytes()
    state, _, tasks = project.deployment("train", 'overrides=["align.head=linear"]')
    assert state == "Completed"
    assert tasks["align"] == "Completed" and "record" not in tasks
    assert (project.root / "dvc.lock").read_bytes() == lock
    assert project.repro() == set()  # from the cache: what was recorded is still known

    state, message, tasks = project.deployment("train", 'overrides=["align.hed=linear"]')
    assert state == "Failed" and tasks == {}
    assert "align.hed: unknown parameter" in message and "\n" not in message


def test_after_dvc_the_deployment_computes_nothing(
    project: Stack, tmp_path: Path, repository: Path
) -> None:
    root = tmp_path / "other"
    copy_project(repository, root)
    other = Stack(root, project.ports)
    assert "scenes" in other.repro()
    # The same server and worker; the deployments now point to the other project.
    other.environment["PREFECT_API_URL"] = project.api
    other.run("prefect", "--no-prompt", "deploy", "--all")
    shutil.rmtree(root / ".fmbseg")  # as after `dvc pull`: the published results count
    start = time.monotonic()
    state, message, tasks = other.deployment("full")
    assert time.monotonic() - start < 600
    assert state == "Completed", message
    tasks.pop("record")
    assert set(tasks.values()) <= {"Cached", "Completed"}
    assert not list((root / ".fmbseg").glob("shards/*/*/0*"))  # no shard was computed
    assert other.repro() == set()


def test_stop_ends_everything(project: Stack) -> None:
    noted = json.loads((project.root / ".stack" / "processes.json").read_text())
    assert {entry["name"] for entry in noted} == {"prefect", "mlflow", "worker"}
    project.stack("stop")
    for port in project.ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not (project.root / "prefect.toml").exists()
