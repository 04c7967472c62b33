from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows import stack as stack_module
from flows.stack import Stack, Started, open_stack, start, stop
from fmbseg.errors import ConfigError


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path, 1, 2)
    made.folder.mkdir()
    yield made


def test_ports_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FMBSEG_PREFECT_PORT", raising=False)
    monkeypatch.setenv("FMBSEG_MLFLOW_PORT", "5123")
    made = open_stack(tmp_path)
    assert (made.api, made.tracking) == ("http://127.0.0.1:4200/api", "http://127.0.0.1:5123")
    monkeypatch.setenv("FMBSEG_PREFECT_PORT", "http")
    with pytest.raises(ConfigError, match="FMBSEG_PREFECT_PORT is 'http'"):
        open_stack(tmp_path)


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use.*FMBSEG_PREFECT_PORT"):
            start(Stack(tmp_path, port, 1))
    assert not (tmp_path / ".stack").exists()


def test_stop_ends_its_own_processes_with_their_children_and_no_other(stack: Stack) -> None:
    # A child of its own, and a grandchild.
    code = (
        "import subprocess, sys, time;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print('ready', flush=True); time.sleep(600)"
    )
    own = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert own.stdout is not None and own.stdout.readline() == "ready\n"
        process = psutil.Process(own.pid)
        family = [process, *process.children(recursive=True)]
        assert len(family) == 2
        # The second entry is a process of before a restart, whose number `other` has now.
        noted = [
            Started("mlflow", own.pid, process.create_time()),
            Started("worker", other.pid, psutil.Process(other.pid).create_time() - 100.0),
        ]
        stack_module._remember(stack, noted)
        stop(stack)
        assert not any(one.is_running() and one.status() != "zombie" for one in family)
        assert other.poll() is None
        assert not (stack.folder / "processes.json").exists()
        stop(stack)  # nothing left: nothing to do
    finally:
        for left in (own, other):
            left.kill()
            left.wait()
        if own.stdout is not None:
            own.stdout.close()
