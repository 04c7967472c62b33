"""What the stack keeps when its servers are stopped or are not alone on the machine."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.flows.stack import Stack, free_ports
from tests.project import Project, copy_project

pytestmark = pytest.mark.slow

SLOT = """
import time
from flows.common import gpu_slot
with gpu_slot():
    print("held", flush=True)
    time.sleep({seconds})
"""
# The lease of a minute, the server's next look at leases, and the client's next try.
LEASE_SECONDS = 60 + 15 + 30


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("project") / "fmbseg"
    copy_project(repository, root)
    with Stack(root, free_ports(2)).running() as made:
        yield made


def taken_slots(project: Stack) -> int:
    address = {PREFECT_API_URL: project.api}
    with temporary_settings(address), get_client(sync_client=True) as client:
        return int(client.read_global_concurrency_limit_by_name("gpu").active_slots)


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


def test_a_killed_runs_slot_is_free_again_although_the_server_was_restarted(
    project: Stack,
) -> None:
    command = [sys.executable, "-c", SLOT.format(seconds=600)]
    environment = project.environment | {"PREFECT_API_URL": project.api}
    holder = subprocess.Popen(
        command, cwd=project.root, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert taken_slots(project) == 1
    finally:
        holder.kill()
        holder.communicate()
    killed = time.monotonic()
    project.stack("stop")
    project.stack("start")
    done = subprocess.run(
        [sys.executable, "-c", SLOT.format(seconds=0)],
        cwd=project.root,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        # From the kill; a busy machine starts its servers slowly, and a process as well.
        timeout=max(LEASE_SECONDS - (time.monotonic() - killed), 0) + 60,
    )
    assert done.stdout == "held\n"
    assert taken_slots(project) == 0
