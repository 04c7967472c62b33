"""Prefect server, MLflow server and a worker on this machine: `make stack`, `make stack-stop`.

Everything they keep lies in `.stack/` of the project (Prefect) and in its `mlflow.db` and
`mlruns/` (MLflow, the same that plain runs log to). `prefect.toml`, written here, tells the
`prefect` command in this folder where the server is.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path

import psutil
import typer
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import WorkerStatus
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.common import slot_name
from fmbseg.atomic import write_atomically
from fmbseg.errors import ConfigError, FmbsegError

POOL = "fmbseg"
_PROCESSES = "processes.json"
# Files in `concurrency_leases/` of the server's Prefect home.
_LEASES = "prefect.server.concurrency.lease_storage.filesystem"
_SERVERS = ("prefect", "mlflow")
_HOST = "127.0.0.1"
_START_SECONDS = 300.0
_STOP_SECONDS = 20.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Started:
    """A process of the stack; the time tells it from a later one of the same number.

    Attributes:
        name: prefect, mlflow or worker.
        pid: its number.
        created: when, in seconds since 1970.
        port: what it listens on, of this machine; None: the worker.
    """

    name: str
    pid: int
    created: float
    port: int | None = None


@dataclass(frozen=True)
class Stack:
    """The stack of one project folder.

    Attributes:
        root: the project, absolute.
        prefect_port: the one it runs on, otherwise `FMBSEG_PREFECT_PORT`.
        mlflow_port: the one it runs on, otherwise `FMBSEG_MLFLOW_PORT`.
    """

    root: Path
    prefect_port: int
    mlflow_port: int

    @property
    def folder(self) -> Path:
        """State and logs."""
        return self.root / ".stack"

    @property
    def api(self) -> str:
        """Prefect's API."""
        return f"http://{_HOST}:{self.prefect_port}/api"

    @property
    def tracking(self) -> str:
        """MLflow."""
        return f"http://{_HOST}:{self.mlflow_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What the processes, and the runs that the worker starts, find in their environment."""
        places = [str(self.root), os.environ.get("PYTHONPATH", "")]
        defaults = {
            "DO_NOT_TRACK": "1",
            "DVC_NO_ANALYTICS": "1",
            "HF_HUB_OFFLINE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Seven more processes, for features of language models.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Which slots are taken is in the database; until when, by default in the server's
            # memory: the slot of a run that was killed would stay taken after a restart.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES,
        }
        return {
            **defaults,
            **os.environ,
            "MLFLOW_TRACKING_URI": self.tracking,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_LOGGING_EXTRA_LOGGERS": "fmbseg",
            # Every ten seconds is long to wait for a run that takes half a minute.
            "PREFECT_WORKER_QUERY_SECONDS": "5",
            "PYTHONPATH": os.pathsep.join(filter(None, places)),
        }


def open_stack(root: Path = Path(".")) -> Stack:
    """The stack of a project, with the ports that it runs on, otherwise those of the environment.

    Raises:
        ConfigError: a port is no port.
    """
    ports = []
    for name, default in (("FMBSEG_PREFECT_PORT", 4200), ("FMBSEG_MLFLOW_PORT", 5000)):
        text = os.environ.get(name) or str(default)
        if not text.isdigit() or not 0 < int(text) < 65536:
            raise ConfigError(f"{name} is {text!r}: give a port, such as {default}")
        ports.append(int(text))
    stack = Stack(root.resolve(), *ports)
    if not _running(stack):
        return stack
    # What was given when it was started need not be given again: at another port there may be
    # another project's stack.
    own = {item.name: item.port for item in _noted(stack)}
    prefect, mlflow = (own.get(name) or port for name, port in zip(_SERVERS, ports, strict=True))
    return Stack(stack.root, prefect, mlflow)


def start(stack: Stack) -> None:
    """Start what does not run, and return when everything answers.

    Raises:
        ConfigError: a port is taken, or a process ended or did not answer in time.
    """
    if _is_whole(stack):
        print(f"the stack runs already: {_addresses(stack)}")
        return
    if _running(stack):
        stop(stack)
    for name, port in (("PREFECT", stack.prefect_port), ("MLFLOW", stack.mlflow_port)):
        if _is_taken(port):
            raise ConfigError(
                f"port {port} is in use: stop what uses it, or choose another with "
                f"FMBSEG_{name}_PORT"
            )
    stack.folder.mkdir(parents=True, exist_ok=True)
    started: list[Started] = []
    try:
        started.append(_spawn(stack, "prefect", _prefect(stack), stack.prefect_port))
        _remember(stack, started)
        started.append(_spawn(stack, "mlflow", _mlflow(stack), stack.mlflow_port))
        _remember(stack, started)
        _wait(stack, started[0], lambda: _serves(started[0], f"{stack.api}/health"))
        _create_limit(stack)
        started.append(_spawn(stack, "worker", _worker()))
        _remember(stack, started)
        # Not /health: it is exempt from the checks that a client's calls go through.
        experiment = f"{stack.tracking}/api/2.0/mlflow/experiments/get?experiment_id=0"
        _wait(stack, started[1], lambda: _serves(started[1], experiment))
        _wait(stack, started[2], lambda: _worker_is_online(stack))
    except BaseException:
        stop(stack)
        raise
    (stack.root / "prefect.toml").write_text(
        "# Written by `make stack`, removed by `make stack-stop`.\n"
        f"home = {json.dumps(str(stack.folder / 'prefect'))}\n"
        f"[api]\nurl = {json.dumps(stack.api)}\n",
        encoding="utf-8",
    )
    print(f"{_addresses(stack)}, pool {POOL}")
    if os.environ.get("PREFECT_API_URL", stack.api).rstrip("/") != stack.api:
        print("PREFECT_API_URL names another server, and `prefect` asks that one: unset it")


def stop(stack: Stack) -> None:
    """End the processes that `start` started, and their children; no others."""
    (stack.root / "prefect.toml").unlink(missing_ok=True)
    # The worker first: it tells the server what became of its runs.
    for item in reversed(_running(stack)):
        _end(item)
        print(f"stopped {item.name}")
    (stack.folder / _PROCESSES).unlink(missing_ok=True)


def deploy(stack: Stack) -> None:
    """Register the deployments of prefect.yaml with the stack's server.

    Raises:
        ConfigError: the stack does not run, or Prefect refused.
    """
    # All of it: where its server is gone, another project's may have the port by now.
    if not _is_whole(stack):
        raise ConfigError("the stack does not run, or not all of it: start it with `make stack`")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=stack.root, env=stack.environment, check=False)
    if done.returncode:
        raise ConfigError("`prefect deploy` failed: see its message above")


def _prefect(stack: Stack) -> list[str]:
    return ["prefect", "server", "start", "--host", _HOST, "--port", str(stack.prefect_port)]


def _mlflow(stack: Stack) -> list[str]:
    # Clients on this machine write artefacts straight into mlruns/, as plain runs do: a run looks
    # the same whether it was logged through the server or into the database.
    own = f"sqlite:///{stack.root / 'mlflow.db'}"
    places = ["--backend-store-uri", os.environ.get("MLFLOW_BACKEND_STORE_URI") or own]
    places += ["--default-artifact-root", (stack.root / "mlruns").as_uri(), "--no-serve-artifacts"]
    address = ["--host", _HOST, "--port", str(stack.mlflow_port), "--workers", "1"]
    return ["mlflow", "server", *places, *address]


def _worker() -> list[str]:
    # One run at a time: all of them work in this one folder.
    return ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--limit", "1"]


def _spawn(stack: Stack, name: str, command: Sequence[str], port: int | None = None) -> Started:
    # As modules: what is on the PATH under these names may belong to another environment.
    arguments = [sys.executable, "-m", *command]
    with (stack.folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            arguments,
            cwd=stack.root,
            env=stack.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Started(name, process.pid, psutil.Process(process.pid).create_time(), port)


def _create_limit(stack: Stack) -> None:
    if name := slot_name():
        with _client(stack) as client:
            client.upsert_global_concurrency_limit_by_name(name, 1)


def _worker_is_online(stack: Stack) -> bool:
    with _client(stack) as client:
        try:
            workers = client.read_workers_for_work_pool(POOL)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != HTTPStatus.NOT_FOUND:
                raise
            return False  # the worker makes the pool when it starts
    return any(worker.status == WorkerStatus.ONLINE for worker in workers)


@contextmanager
def _client(stack: Stack) -> Iterator[SyncPrefectClient]:
    with (
        temporary_settings({PREFECT_API_URL: stack.api}),
        get_client(sync_client=True) as client,
    ):
        yield client


def _wait(stack: Stack, item: Started, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + _START_SECONDS
    log = stack.folder / f"{item.name}.log"
    while not ready():
        if _process(item) is None:
            raise ConfigError(f"{item.name} ended when it started: see {log}")
        if time.monotonic() > end:
            raise ConfigError(f"{item.name} did not answer in {_START_SECONDS:.0f} s: see {log}")
        time.sleep(0.5)


def _serves(item: Started, url: str) -> bool:
    # Whoever took the port between our look at it and the server's answers as well.
    return _listens(item) and _answers(url)


def _listens(item: Started) -> bool:
    process = _process(item)
    if process is None:
        return False
    with suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            for socket_ in one.net_connections(kind="tcp"):
                if socket_.status == psutil.CONN_LISTEN and socket_.laddr.port == item.port:
                    return True
    return False


def _answers(url: str) -> bool:
    # No proxy stands between this machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last owner has just gone is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return True
    return False


def _remember(stack: Stack, started: Sequence[Started]) -> None:
    text = json.dumps([asdict(item) for item in started], indent=1)
    write_atomically(stack.folder / _PROCESSES, text.encode())


def _noted(stack: Stack) -> list[Started]:
    try:
        noted = json.loads((stack.folder / _PROCESSES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [Started(**entry) for entry in noted]


def _running(stack: Stack) -> list[Started]:
    return [item for item in _noted(stack) if _process(item)]


def _is_whole(stack: Stack) -> bool:
    return {item.name for item in _running(stack)} == {*_SERVERS, "worker"}


def _addresses(stack: Stack) -> str:
    return f"Prefect {stack.api.removesuffix('/api')}, MLflow {stack.tracking}"


def _process(item: Started) -> psutil.Process | None:
    """The process while it lives; its number may have gone to another one meanwhile."""
    try:
        process = psutil.Process(item.pid)
        same = process.create_time() == item.created
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _end(item: Started) -> None:
    process = _process(item)
    if process is None:
        return
    family = [process, *process.children(recursive=True)]
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    psutil.wait_procs([process], timeout=_STOP_SECONDS)
    for left in family:
        with suppress(psutil.NoSuchProcess):
            left.kill()
    psutil.wait_procs(family, timeout=_STOP_SECONDS)


@app.command("start")
def _start_command() -> None:
    """Start the servers and a worker; return when all answer."""
    start(open_stack())


@app.command("deploy")
def _deploy_command() -> None:
    """Register the deployments of prefect.yaml."""
    deploy(open_stack())


@app.command("stop")
def _stop_command() -> None:
    """Stop what `start` started."""
    stop(open_stack())


def main() -> None:
    """Entry point of `python -m flows.stack`."""
    try:
        app(prog_name="python -m flows.stack")
    except FmbsegError as error:
        print("fmbseg: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
