"""What the stack keeps when its servers are stopped or are not alone on the machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.stack import Stack, free_ports
from tests.project import Project, copy_project

pytestmark = pytest.mark.slow

LEASE_SECONDS = 60
# The server looks at its leases every 15 seconds; a busy machine is slower.
LOOK_SECONDS = 60


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("project") / "fmbseg"
    copy_project(repository, root)
    with Stack(root, free_ports(2)).running() as made:
        yield made


def test_its_ports_need_not_be_given_again_and_another_clone_is_refused_them(
    project: Stack, tmp_path: Path
) -> None:
    user = Project(project.root)  # no ports in the environment
    said = user.run("python", "-m", "flows.stack", "start")
    prefect, mlflow = (f"http://127.0.0.1:{port}" for port in project.ports)
    assert said.strip() == f"the stack runs already: Prefect {prefect}, MLflow {mlflow}"
    user.run("python", "-m", "flows.stack", "deploy")
    scenes = ("-p", 'stages=["scenes"]', "-p", "record=false")
    user.run("prefect", "deployment", "run", "fmbseg/full", "--watch", *scenes)
    run = project.newest_run()
    assert run.state_name == "Completed"

    other = Stack(tmp_path / "other", project.ports)
    copy_project(project.root, other.root)
    for action, reason in (("start", "port .* is in use"), ("deploy", "the stack does not run")):
        done = other.try_run("python", "-m", "flows.stack", action)
        assert done.returncode == 2
        assert re.fullmatch(f"fmbseg: {reason}.*\n", done.stderr), done.stderr
    assert not (other.root / "prefect.toml").exists()
    steps = project.deployment_steps("fmbseg/full")
    assert steps == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(project.root)}}
    ]


def test_a_worker_says_that_it_asks_for_work(project: Stack, repository: Path) -> None:
    (port,) = free_ports(1)
    environment = project.environment | {
        **project.address,
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(port),
    }
    # As in docker/compose.yaml.
    check = [sys.executable, repository / "docker" / "healthcheck.py", "worker"]
    check.append(f"http://127.0.0.1:{port}")
    assert subprocess.run(check, capture_output=True).returncode == 1
    options = ["--pool=fmbseg", "--type=process", "--limit=1", "--with-healthcheck"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "flows.worker", "start", *options],
        cwd=project.root,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while subprocess.run(check, capture_output=True).returncode:
            assert time.monotonic() < end, "the worker's check does not succeed"
            time.sleep(1.0)
    finally:
        worker.terminate()
        worker.wait()


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_container_works_in_the_project_that_is_mounted(
    project: Stack, repository: Path, tmp_path: Path, kind: str
) -> None:
    folder = repository / "docker"
    file = (folder / "prefect.yaml").read_text(encoding="utf-8")
    file = file.replace("directory: /project", f"directory: {project.root}")
    pool = f"fmbseg-{kind}"
    (tmp_path / "prefect.yaml").write_text(file.replace("fmbseg-containers", pool))
    template = ("--type", kind, "--base-job-template", str(folder / f"pool-{kind}.json"))
    project.run("prefect", "work-pool", "create", pool, *template)
    # Not deployed from where it will run.
    other = Stack(tmp_path / "other", project.ports)
    copy_project(project.root, other.root)
    other.environment |= project.address
    given = ("--prefect-file", str(tmp_path / "prefect.yaml"))
    other.run("prefect", "--no-prompt", "deploy", "--all", *given)
    scenes = ("-p", 'stages=["scenes"]', "-p", "record=false")
    other.run("prefect", "deployment", "run", "fmbseg/full", *scenes)
    run = project.newest_run()
    assert run.work_pool_name == pool

    # What a container's command is; its own folder is not the project's.
    shutil.rmtree(project.root / "data", ignore_errors=True)
    command = [sys.executable, "-m", "prefect", "flow-run", "execute", str(run.id)]
    environment = project.environment | project.address
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=600)
    state = project.state(run)
    assert state.name == "Completed", state.message
    assert (project.root / "data" / "scenes" / "manifest.json").is_file()
    assert not (other.root / "data").exists() and not (tmp_path / "data").exists()


def test_a_killed_runs_slot_is_free_again_although_the_server_was_restarted(
    project: Stack,
) -> None:
    holder = project.hold_slot()
    assert project.taken_slots() == 1
    holder.kill()
    holder.communicate()
    killed = time.monotonic()
    project.stack("stop")
    project.stack("start")
    end = max(killed + LEASE_SECONDS, time.monotonic()) + LOOK_SECONDS
    while project.taken_slots():
        assert time.monotonic() < end, "nobody gives the slot back"
        time.sleep(1.0)
    project.hold_slot().communicate()
    assert project.taken_slots() == 0
