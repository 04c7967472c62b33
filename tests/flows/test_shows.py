"""The whole machine for real: `make stack`'s servers, the deployments, and DVC after them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

pytestmark = pytest.mark.slow

CHANGES = {
    "train: 480, val: 120": "train: 8, val: 4",
    "{val: 120}": "{val: 4}",
    "shard_size: 64": "shard_size: 4",
    "points_per_side: 12": "points_per_side: 4",
    "epochs: 12": "epochs: 2",
    "threads: 2": "threads: 1",
}
FILES = ("params.yaml", "dvc.yaml", "prefect.yaml", ".dvcignore", ".gitignore")


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Project:
    """A scratch project in git with few scenes, its stack on free ports, and commands in it."""

    def __init__(self, root: Path, repository: Path) -> None:
        self.root = root
        for name in ("fmbseg", "flows"):
            ignored = shutil.ignore_patterns("__py*")
            shutil.copytree(repository / name, root / name, ignore=ignored)
        for name in FILES:
            shutil.copy(repository / name, root)
        (root / ".dvc").mkdir()
        for name in ("config", ".gitignore"):
            shutil.copy(repository / ".dvc" / name, root / ".dvc")
        text = (root / "params.yaml").read_text(encoding="utf-8")
        for old, new in CHANGES.items():
            assert old in text
            text = text.replace(old, new)
        (root / "params.yaml").write_text(text, encoding="utf-8")
        self.ports = _free_ports(2)
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "FMBSEG_PREFECT_PORT": str(self.ports[0]),
            "FMBSEG_MLFLOW_PORT": str(self.ports[1]),
            **{f"GIT_{who}_NAME": "Test" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "test@example.org" for who in ("AUTHOR", "COMMITTER")},
        }
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"):
            self.environment.pop(name, None)
        self.run("git", "init", "-q")
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "start")

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}/api"

    def try_run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=3600,
        )

    def run(self, *command: str) -> str:
        done = self.try_run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def stack(self, action: str) -> str:
        return self.run("python", "-m", "flows.stack", action)

    def repro(self) -> set[str]:
        """Names of the stages `dvc repro` ran."""
        return set(re.findall(r"Running stage '(.+?)'", self.run("dvc", "repro")))

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
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("project") / "fmbseg"
    root.mkdir()
    made = Project(root, repository)
    try:
        assert made.api.removesuffix("/api") in made.stack("start")
        made.stack("deploy")
        yield made
    finally:
        made.try_run("python", "-m", "flows.stack", "stop")
        shutil.rmtree(root, ignore_errors=True)


# The tests go on from one another: the first pays for all of them.


def test_after_the_deployment_dvc_runs_nothing(project: Project) -> None:
    state, message, tasks = project.deployment("full", "preset=tiny")
    assert state == "Completed", message
    assert set(tasks.values()) == {"Completed"}
    assert {"scenes", "detect", "evaluate@voc21", "baselines@coco_stuff", "oracle"} <= set(tasks)
    assert project.repro() == set()
    assert "up to date" in project.run("dvc", "status")
    changed = {line[3:] for line in project.run("git", "status", "--short").splitlines()}
    assert changed == {"dvc.lock", "metrics/"}


def test_the_same_again_is_cached(project: Project) -> None:
    state, _, tasks = project.deployment("full")
    assert state == "Completed"
    assert tasks.pop("record") == "Completed"
    assert set(tasks.values()) == {"Cached"}


def test_a_truncated_file_is_noticed_and_made_again(project: Project) -> None:
    path = project.root / "data" / "pseudo" / "detect" / "detections.parquet"
    before = path.read_bytes()
    path.write_bytes(before[:-7])
    state, message, tasks = project.deployment("pseudo-labels")
    assert state == "Completed", message
    assert path.read_bytes() == before
    assert (tasks["detect"], tasks["masks"]) == ("Completed", "Cached")
    assert project.repro() == set()


def test_its_results_are_shown(project: Project) -> None:
    with temporary_settings({PREFECT_API_URL: project.api}), get_client(sync_client=True) as api:
        shown = {str(one.key): str(one.data) for one in api.read_artifacts(limit=200)}
    assert "maskclip" in shown["fmbseg-miou"]
    assert f"http://127.0.0.1:{project.ports[1]}/#/experiments/" in shown["fmbseg-run"]
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{project.ports[1]}")
    champion = client.get_model_version_by_alias("fmbseg", "champion")
    assert "miou/voc21" in client.get_run(champion.run_id).data.metrics


def test_other_parameters_are_not_recorded_and_mistakes_are_one_line(project: Project) -> None:
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
    project: Project, tmp_path: Path, repository: Path
) -> None:
    root = tmp_path / "other"
    root.mkdir()
    other = Project(root, repository)
    assert "scenes" in other.repro()
    other.ports = project.ports
    other.environment["FMBSEG_PREFECT_PORT"] = str(project.ports[0])
    other.environment["FMBSEG_MLFLOW_PORT"] = str(project.ports[1])
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


def test_stop_ends_everything(project: Project) -> None:
    noted = json.loads((project.root / ".stack" / "processes.json").read_text())
    assert {entry["name"] for entry in noted} == {"prefect", "mlflow", "worker"}
    project.stack("stop")
    for port in project.ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not (project.root / "prefect.toml").exists()
