"""Prefect's server fails in the middle of a run: real servers, and a proxy that lets them fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.proxy import Fault, Proxy
from tests.flows.stack import Stack, drawing

pytestmark = pytest.mark.slow

_OUTAGE = 20.0  # seconds


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("failing") / "fmbseg"
    with drawing(repository, root, train=600) as made:
        yield made


@pytest.fixture
def proxy(project: Stack) -> Iterator[Proxy]:
    made = Proxy(project.ports[0])
    project.run("sh", "-c", "rm -rf data .fmbseg")
    yield made
    made.close()


class Stage:
    """`fmbseg run scenes` as a flow of the server behind a proxy."""

    def __init__(self, project: Stack, proxy: Proxy) -> None:
        self.root = project.root
        address = {"PREFECT_API_URL": f"http://127.0.0.1:{proxy.port}/api"}
        self.said = project.root.parent / "said.txt"
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fmbseg", "run", "scenes"],
                cwd=project.root,
                env=project.environment | project.address | address,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def works(self) -> None:
        """Return when it draws."""
        end = time.monotonic() + 300
        while not list((self.root / ".fmbseg").rglob("*.png")):
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < end, self.said.read_text()
            time.sleep(0.2)

    def ends_well(self, project: Stack) -> str:
        """What it has said, where it has lost nothing."""
        code = self.process.wait(timeout=600)
        said = self.said.read_text()
        assert code == 0, said
        pictures = list((self.root / "data" / "scenes").rglob("*.jpg"))
        assert len(pictures) > 600
        run = project.newest_run()
        assert project.state(run).name == "Completed", project.state(run).message
        assert "Traceback" not in re.sub(r"(?s)prefect\._internal.*?\n\n", "", said), said
        return said


@pytest.mark.parametrize("fault", ["away", "500", "slow"])
def test_a_run_goes_on_while_prefects_server_fails(
    project: Stack, proxy: Proxy, fault: Fault
) -> None:
    stage = Stage(project, proxy)
    stage.works()
    proxy.fault = fault
    time.sleep(_OUTAGE)
    proxy.fault = "none"
    said = stage.ends_well(project)
    if fault != "slow":
        assert proxy.refused > 0
        assert "Prefect's server" in said or "could not be shown" in said


def test_a_run_begins_although_the_server_answers_500_at_first(
    project: Stack, proxy: Proxy
) -> None:
    proxy.fault = "500"
    stage = Stage(project, proxy)
    end = time.monotonic() + 120
    while "asked again in" not in stage.said.read_text():
        assert time.monotonic() < end, stage.said.read_text()
        time.sleep(0.5)
    proxy.fault = "none"
    stage.ends_well(project)


def test_prefects_server_is_killed_and_started_again(project: Stack, proxy: Proxy) -> None:
    stage = Stage(project, proxy)
    stage.works()
    os.kill(project.processes()["prefect"], signal.SIGKILL)
    assert "starting prefect (" in project.stack("start")
    stage.ends_well(project)
