"""The whole machine for real: `make stack`'s servers, the deployments, and DVC after them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings

from fmbseg.config import load_config
from tests.flows.stack import Stack, free_ports
from tests.project import copy_project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("project") / "fmbseg"
    copy_project(repository, root)
    made = Stack(root, free_ports(2))
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


def test_what_mlflow_lost_comes_back_although_all_is_cached(project: Stack) -> None:
    # An experiment that has nothing yet, as after the database was removed.
    again = 'overrides=["tracking.experiment=again"]'
    state, _, tasks = project.deployment("full", again)
    assert (state, tasks.pop("record")) == ("Completed", "Completed")
    assert set(tasks.values()) == {"Cached"}
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{project.ports[1]}")

    def logged(name: str) -> list[tuple[str, str, set[str]]]:
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        return sorted((run.info.run_name, run.info.status, set(run.data.metrics)) for run in runs)

    first = load_config(project.root / "params.yaml").tracking.experiment
    assert logged("again") == logged(first) != []
    start = time.monotonic()
    assert project.deployment("full", again)[0] == "Completed"
    assert time.monotonic() - start < 60
    assert logged("again") == logged(first)


def test_a_truncated_file_is_noticed_and_made_again(project: Stack) -> None:
    path = project.root / "data" / "pseudo" / "detect" / "detections.parquet"
    before = path.read_bytes()
    path.write_bytes(before[:-7])
    state, message, tasks = project.deployment("pseudo-labels")
    assert state == "Completed", message
    assert path.read_bytes() == before
    assert (tasks["detect"], tasks["masks"]) == ("Completed", "Cached")
    assert project.repro() == set()


def scored_methods(project: Stack) -> set[str]:
    """The methods in the newest artifact `fmbseg-miou`."""
    with temporary_settings(project.settings), get_client(sync_client=True) as api:
        found = [each for each in api.read_artifacts(limit=200) if each.key == "fmbseg-miou"]
    newest = max(found, key=lambda each: str(each.created))
    return {str(row["method"]) for row in json.loads(str(newest.data))}


def test_its_results_are_shown(project: Stack) -> None:
    with temporary_settings(project.settings), get_client(sync_client=True) as api:
        shown = {str(one.key): str(one.data) for one in api.read_artifacts(limit=200)}
    assert "maskclip" in shown["fmbseg-miou"]
    page = f"http://127.0.0.1:{project.ports[1]}/#/experiments/"
    assert re.search(rf"MLflow: \[({page}\S+)\]\(\1\)", shown["fmbseg-run"])
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{project.ports[1]}")
    champion = client.get_model_version_by_alias("fmbseg", "champion")
    assert "miou/voc21" in client.get_run(champion.run_id).data.metrics


def test_other_parameters_are_not_recorded_and_mistakes_are_one_line(project: Stack) -> None:
    lock = (project.root / "dvc.lock").read_bytes()
    state, _, tasks = project.deployment("train", 'overrides=["align.head=linear"]')
    assert state == "Completed"
    assert tasks["align"] == "Completed" and "record" not in tasks
    assert (project.root / "dvc.lock").read_bytes() == lock
    # The scores that are there are of the head before.
    assert scored_methods(project) == {"maskclip", "pseudo", "oracle"}
    assert project.repro() == set()  # from the cache: what was recorded is still known

    state, message, tasks = project.deployment("train", 'overrides=["align.hed=linear"]')
    assert state == "Failed" and tasks == {}
    assert "align.hed: unknown parameter" in message and "\n" not in message
    wrong = ("fmbseg/train", "--watch", "-p", 'overrides=["align.hed=linear"]')
    watched = project.try_run("prefect", "deployment", "run", *wrong)
    assert watched.returncode == 1
    assert "align.hed: unknown parameter" in " ".join(watched.stdout.split())
    assert "Traceback" not in watched.stdout


def test_an_ablation_scores_its_variants_and_puts_the_results_back(project: Stack) -> None:
    head = (project.root / "data" / "align" / "head.safetensors").read_bytes()
    state, message, _ = project.deployment("fmbseg-ablation/heads")
    assert state == "Completed", message
    with temporary_settings(project.settings), get_client(sync_client=True) as api:
        (shown,) = [a for a in api.read_artifacts(limit=200) if a.key == "fmbseg-ablation-heads"]
    rows = json.loads(str(shown.data))
    assert [row["variant"] for row in rows] == ["transformer", "mlp", "linear"]
    assert len({tuple(row.values())[1:] for row in rows}) == 3
    assert (project.root / "data" / "align" / "head.safetensors").read_bytes() == head
    assert project.repro() == set()


def test_fmbseg_run_is_a_flow_of_the_server_that_is_named(project: Stack) -> None:
    through = Stack(project.root, project.ports)
    through.environment["PREFECT_API_URL"] = project.api
    before = project.newest_run().id
    assert "detect: 0 computed, 2 taken over" in through.run("fmbseg", "run", "detect")
    run = project.newest_run()
    assert run.id != before
    assert [(task.name, task.state_name) for task in project.tasks(run)] == [("detect", "Cached")]

    wrong = through.try_run("fmbseg", "run", "detect", "--set", "data.root=nowhere")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("fmbseg: ") and "nowhere" in wrong.stderr
    through.environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    away = through.try_run("fmbseg", "run", "detect")
    assert away.returncode == 2 and "nothing answers there" in away.stderr
    assert "Traceback" not in away.stderr


def test_stop_ends_everything(project: Stack) -> None:
    assert set(project.processes()) == {"prefect", "mlflow", "worker"}
    project.stack("stop")
    for port in project.ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not (project.root / "prefect.toml").exists()


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Stack]:
    """Another clone, made by `dvc repro` alone, with what was made pushed to a remote."""
    folder = tmp_path_factory.mktemp("other")
    made = Stack(folder / "fmbseg", free_ports(2))
    copy_project(repository, made.root)
    assert "scenes" in made.repro()
    made.run("dvc", "remote", "add", "-d", "storage", str(folder / "remote"))
    made.run("dvc", "push", "-q")
    made.commit("results")
    yield made
    shutil.rmtree(folder, ignore_errors=True)


def _computes_nothing(clone: Stack) -> None:
    """`fmbseg/full` on servers that have never seen this clone takes everything over."""
    with clone.running():
        start = time.monotonic()
        state, message, tasks = clone.deployment("full")
        assert time.monotonic() - start < 60
        assert state == "Completed", message
        tasks.pop("record")
        assert set(tasks.values()) <= {"Cached", "Completed"}
        (said,) = [line for line in clone.logs() if line.startswith(f"{len(tasks)} stages: ")]
        assert f"{len(tasks)} stages: 0 computed" in said
        assert clone.repro() == set()


def test_after_dvc_pull_the_deployment_computes_nothing(reproduced: Stack, tmp_path: Path) -> None:
    reproduced.run("git", "clone", "-q", str(reproduced.root), str(tmp_path / "clone"))
    clone = Stack(tmp_path / "clone", free_ports(2))
    clone.run("dvc", "pull", "-q")
    assert not (clone.root / ".fmbseg").exists()
    _computes_nothing(clone)


def test_after_dvc_repro_the_deployment_computes_nothing(reproduced: Stack) -> None:
    _computes_nothing(reproduced)
