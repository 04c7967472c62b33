from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from flows.processes import Started, remember, serves, wait
from flows.stack import Stack, deploy, open_stack, start, stop
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


def test_a_running_stack_keeps_its_ports(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FMBSEG_PREFECT_PORT", "4400")
    monkeypatch.delenv("FMBSEG_MLFLOW_PORT", raising=False)
    me = psutil.Process()
    servers = [
        Started("prefect", me.pid, me.create_time(), 4300),
        Started("mlflow", me.pid, me.create_time(), 5300),
    ]
    remember(stack.processes, [*servers, Started("worker", me.pid, me.create_time())])
    found = open_stack(stack.root)
    assert (found.prefect_port, found.mlflow_port) == (4300, 5300)
    start(found)
    told = capsys.readouterr().out
    assert told == (
        "the stack runs already: Prefect http://127.0.0.1:4300, MLflow http://127.0.0.1:5300\n"
    )
    # Its numbers have gone to other processes: it does not run any more.
    gone = [Started(one.name, one.pid, one.created - 100.0, one.port) for one in servers]
    remember(stack.processes, gone)
    found = open_stack(stack.root)
    assert (found.prefect_port, found.mlflow_port) == (4400, 5000)


def test_nothing_is_deployed_where_its_own_server_is_gone(stack: Stack) -> None:
    me = psutil.Process()
    remember(stack.processes, [Started("worker", me.pid, me.create_time())])
    with pytest.raises(ConfigError, match="does not run, or not all of it"):
        deploy(stack)


def test_another_stacks_server_on_the_port_is_not_taken_for_our_own(stack: Stack) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        port = other.server_address[1]
        me = psutil.Process()
        url = f"http://127.0.0.1:{port}"
        assert serves(Started("prefect", me.pid, me.create_time(), port), url)
        # Ours, which could not have the port, ends a little later.
        ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)"])
        created = psutil.Process(ours.pid).create_time()
        item = Started("prefect", ours.pid, created, port)
        with pytest.raises(ConfigError, match="prefect ended when it started"):
            wait(item, stack.log("prefect"), lambda: serves(item, url))
        ours.wait()
        other.shutdown()


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
        remember(stack.processes, noted)
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
