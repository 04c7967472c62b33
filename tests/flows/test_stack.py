from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from flows.stack import deploy, main, start, stop, ui, wait
from flows.stack_parts import Stack, open_stack, parts, serves, spawn
from fmbseg.errors import ConfigError

# In the place of Prefect and MLflow: starts one more process, says so, and waits.
PART = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack whose parts are processes that do nothing."""
    made = Stack(tmp_path, 4300, 5300)
    made.folder.mkdir()
    (tmp_path / "flows").mkdir()
    for name in ("flows/__init__", "flows/server", "flows/worker", "mlflow"):
        # Run in this folder, where a module of it comes first.
        (tmp_path / f"{name}.py").write_text("" if name.endswith("__") else PART)
    yield made
    stop(made)


def begin(stack: Stack, *names: str) -> list[psutil.Process]:
    """Start parts; returns each with its child."""
    for name in names:
        spawn(stack, name)
    end = time.monotonic() + 60
    while any("ready" not in stack.log(name).read_text() for name in names):
        assert time.monotonic() < end, "a part did not start"
        time.sleep(0.05)
    found = parts(stack)
    assert [*found] == [*names]
    return [each for part in found.values() for each in (part, *part.children())]


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_ports_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FMBSEG_PREFECT_PORT", raising=False)
    monkeypatch.setenv("FMBSEG_MLFLOW_PORT", "5123")
    made = open_stack(tmp_path)
    assert (made.api, made.tracking) == ("http://127.0.0.1:4200/api", "http://127.0.0.1:5123")
    monkeypatch.setenv("FMBSEG_PREFECT_PORT", "http")
    with pytest.raises(ConfigError, match="FMBSEG_PREFECT_PORT is 'http'"):
        open_stack(tmp_path)


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} is in use.*FMBSEG_PREFECT_PORT"):
            start(Stack(tmp_path, port, 1))
    assert not (tmp_path / ".stack").exists()


def test_the_runs_alone_are_shown_on_the_stacks_port(stack: Stack) -> None:
    # In the stack's folder stands a module for Prefect, which must not be imported here.
    code = (
        "import os; from pathlib import Path; from flows.stack import Stack, ui\n"
        f"os.chdir({str(stack.root)!r}); ui(Stack(Path({str(stack.root)!r}), 4300, 5300))"
    )
    start = [sys.executable, "-c", code]
    shown = subprocess.Popen(start, cwd=Path(__file__).parents[2], text=True, stdout=-1)
    try:
        assert shown.stdout is not None
        first = shown.stdout.readline()
        assert first == f"MLflow on {stack.tracking}, until Ctrl-C\n"
        assert shown.stdout.readline() == "ready\n"
        assert parts(stack) == {}  # `make stack-stop` leaves it alone
    finally:
        for child in psutil.Process(shown.pid).children():
            child.kill()
        shown.kill()
        shown.communicate()


def test_runs_are_not_shown_twice_nor_on_a_taken_port(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} is in use.*FMBSEG_MLFLOW_PORT"):
            ui(Stack(stack.root, 4300, port))
    begin(stack, "mlflow")
    ui(stack)
    assert capsys.readouterr().out == f"the stack shows them already: {stack.tracking}\n"


@pytest.mark.slow
def test_without_a_stack_no_server_is_started_for_a_moment(
    tmp_path: Path, repository: Path
) -> None:
    (tmp_path / "pyproject.toml").write_bytes((repository / "pyproject.toml").read_bytes())
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_API")}
    command = [sys.executable, "-m", "prefect", "deployment", "run", "fmbseg/full"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "No Prefect API URL provided" in done.stdout + done.stderr
    assert "temporary server" not in (done.stdout + done.stderr).lower()


def test_a_running_stack_keeps_its_ports(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FMBSEG_PREFECT_PORT", "4400")
    monkeypatch.delenv("FMBSEG_MLFLOW_PORT", raising=False)
    begin(stack, "prefect", "mlflow", "worker")
    # Where its database is need not be given again either.
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "sqlite:///elsewhere.db")
    found = open_stack(stack.root)
    assert (found.prefect_port, found.mlflow_port) == (4300, 5300)
    start(found)
    told = capsys.readouterr().out
    assert told == (
        "the stack runs already: Prefect http://127.0.0.1:4300, MLflow http://127.0.0.1:5300\n"
    )
    stop(found)
    found = open_stack(stack.root)
    assert (found.prefect_port, found.mlflow_port) == (4400, 5000)


def test_nothing_is_deployed_where_its_own_server_is_gone(stack: Stack) -> None:
    begin(stack, "mlflow", "worker")
    with pytest.raises(ConfigError, match="does not run, or not all of it"):
        deploy(stack)


def test_what_a_part_has_started_is_not_the_part(stack: Stack) -> None:
    part, child = begin(stack, "worker")
    part.kill()
    part.wait()
    assert lives(child)
    assert parts(stack) == {}
    stop(stack)  # and yet it is the stack's
    assert not lives(child)


def test_another_stacks_server_on_the_port_is_not_taken_for_our_own(stack: Stack) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        port = other.server_address[1]
        url = f"http://127.0.0.1:{port}"
        # Ours, which could not have the port, ends a little later.
        (stack.root / "flows" / "server.py").write_text("import time; time.sleep(2)")
        spawn(stack, "prefect")
        with pytest.raises(ConfigError, match=r"prefect ended when it started: see .*prefect\.log"):
            wait(stack, "prefect", lambda: serves(stack, port, url))
        other.shutdown()


def test_a_server_of_our_own_is_waited_for(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (stack.root / "flows" / "server.py").write_text(
        "import time, http.server; time.sleep(1)\n"
        f"server = http.server.HTTPServer(('127.0.0.1', {port}), "
        "http.server.SimpleHTTPRequestHandler)\nserver.serve_forever()"
    )
    spawn(stack, "prefect")
    wait(stack, "prefect", lambda: serves(stack, port, f"http://127.0.0.1:{port}"))
    assert not serves(Stack(stack.root / "other", 1, 2), port, f"http://127.0.0.1:{port}")


def test_stop_ends_its_own_processes_with_their_children_and_no_other(stack: Stack) -> None:
    family = begin(stack, "prefect", "worker")
    assert len(family) == 4
    other = Stack(stack.root / "other", 1, 2)
    environment = os.environ | {"FMBSEG_STACK": str(other.root)}
    code = [sys.executable, "-c", "import time; time.sleep(600)"]
    others = [subprocess.Popen(code, env=environment), subprocess.Popen(code)]
    try:
        stop(stack)
        assert not any(lives(one) for one in family)
        assert [one.poll() for one in others] == [None, None]
        stop(stack)  # nothing left: nothing to do
    finally:
        for left in others:
            left.kill()
            left.wait()


def test_a_part_that_does_not_listen_to_reason_is_killed(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stack.root / "mlflow.py").write_text(
        f"import signal; signal.signal({int(signal.SIGTERM)}, signal.SIG_IGN)\n{PART}"
    )
    monkeypatch.setattr("flows.stack_parts._STOP_SECONDS", 0.5)
    family = begin(stack, "mlflow")
    stop(stack)
    assert not any(lives(one) for one in family)


def test_no_command_has_a_secret_in_it(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://user:geheim@127.0.0.1/mlflow")
    far = replace(stack, mlflow_host="0.0.0.0")
    assert far.mlflow_login is not None
    secrets = ["geheim", *(login.partition(":")[2] for login in (far.login, far.mlflow_login))]
    for command in far.commands.values():
        assert not [secret for secret in secrets if secret in " ".join(command)]
    assert far.environment["MLFLOW_BACKEND_STORE_URI"].endswith("/mlflow")
    kept = [path for path in far.folder.iterdir() if path.is_file()]
    assert {path.name for path in kept} == {
        "login",
        "mlflow-auth.ini",
        "mlflow-key",
        "mlflow-login",
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)


def test_mlflow_that_others_reach_asks_for_a_password_or_does_not_start(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMBSEG_MLFLOW_HOST", "0.0.0.0")
    far = open_stack(stack.root)
    assert far.commands["mlflow"][:2] == ["mlflow", "server"]
    assert "--app-name basic-auth" in " ".join(far.commands["mlflow"])
    assert far.tracking == "http://127.0.0.1:5000"
    # As where the extra `server` is not installed.
    monkeypatch.setattr("flows.stack.find_spec", lambda name: None)
    for action in (start, ui):
        with pytest.raises(ConfigError, match=r"MLflow must ask for a password.*fmbseg\[server\]"):
            action(far)
    monkeypatch.setenv("FMBSEG_MLFLOW_HOST", "localhost")
    near = open_stack(stack.root)
    assert near.mlflow_login is None and "basic-auth" not in near.commands["mlflow"]
    with pytest.raises(ConfigError, match=r"'192\.0\.2\.1', which is no address of this machine"):
        monkeypatch.setattr("flows.stack.find_spec", lambda name: object())
        ui(replace(stack, mlflow_host="192.0.2.1"))


def test_what_runs_is_left_alone_when_a_part_is_started_again(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(stack, "prefect", "mlflow", "worker")
    before = parts(stack)
    before["mlflow"].kill()
    before["mlflow"].wait(10)
    (stack.root / "mlflow.py").write_text("import sys; sys.exit(1)")
    monkeypatch.setattr("flows.stack.serves", lambda stack, port, *_: port == stack.prefect_port)
    monkeypatch.setattr("flows.stack._has_worker", lambda client: True)
    monkeypatch.setenv("FMBSEG_GPU_LIMIT", "")
    # The new one ends at once, which is said; neither of the others is touched.
    with pytest.raises(ConfigError, match="mlflow ended when it started"):
        start(stack)
    after = parts(stack)
    assert {*after} == {"prefect", "worker"}
    assert all(after[name].pid == before[name].pid for name in after)


def test_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["flows.stack", "restart"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert re.fullmatch("fmbseg: use .*start.*\n", capsys.readouterr().err)
