"""Prefect server, MLflow server and a worker on this machine: `make stack`, `make stack-stop`.

Everything they keep lies in `.stack/` of the project (Prefect) and in its `mlflow.db` and
`mlruns/` (MLflow, the same that plain runs log to). `prefect.toml`, written here, tells the
`prefect` command in this folder where the server is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import typer
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import WorkerStatus
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.common import slot_name
from flows.processes import (
    HOST,
    Started,
    end,
    is_taken,
    noted,
    remember,
    running,
    serves,
    spawn,
    wait,
)
from fmbseg.errors import ConfigError, FmbsegError

POOL = "fmbseg"
# Files in `concurrency_leases/` of the server's Prefect home.
_LEASES = "prefect.server.concurrency.lease_storage.filesystem"
_SERVERS = ("prefect", "mlflow")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


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
    def processes(self) -> Path:
        """Notes of the processes that were started."""
        return self.folder / "processes.json"

    def log(self, name: str) -> Path:
        """What a process of the stack prints."""
        return self.folder / f"{name}.log"

    @property
    def api(self) -> str:
        """Prefect's API."""
        return f"http://{HOST}:{self.prefect_port}/api"

    @property
    def tracking(self) -> str:
        """MLflow."""
        return f"http://{HOST}:{self.mlflow_port}"

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
    if not running(stack.processes):
        return stack
    # What was given when it was started need not be given again: at another port there may be
    # another project's stack.
    own = {item.name: item.port for item in noted(stack.processes)}
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
    if running(stack.processes):
        stop(stack)
    for name, port in (("PREFECT", stack.prefect_port), ("MLFLOW", stack.mlflow_port)):
        if is_taken(port):
            raise ConfigError(
                f"port {port} is in use: stop what uses it, or choose another with "
                f"FMBSEG_{name}_PORT"
            )
    stack.folder.mkdir(parents=True, exist_ok=True)
    started: list[Started] = []

    def add(name: str, command: list[str], port: int | None = None) -> Started:
        item = spawn(
            name,
            command,
            cwd=stack.root,
            environment=stack.environment,
            log=stack.log(name),
            port=port,
        )
        started.append(item)
        remember(stack.processes, started)
        return item

    try:
        prefect = add("prefect", _prefect(stack), stack.prefect_port)
        mlflow = add("mlflow", _mlflow(stack), stack.mlflow_port)
        wait(prefect, stack.log("prefect"), lambda: serves(prefect, f"{stack.api}/health"))
        _create_limit(stack)
        worker = add("worker", _worker())
        # Not /health: it is exempt from the checks that a client's calls go through.
        experiment = f"{stack.tracking}/api/2.0/mlflow/experiments/get?experiment_id=0"
        wait(mlflow, stack.log("mlflow"), lambda: serves(mlflow, experiment))
        wait(worker, stack.log("worker"), lambda: _worker_is_online(stack))
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
    for item in reversed(running(stack.processes)):
        end(item)
        print(f"stopped {item.name}")
    stack.processes.unlink(missing_ok=True)


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
    return ["prefect", "server", "start", "--host", HOST, "--port", str(stack.prefect_port)]


def _mlflow(stack: Stack) -> list[str]:
    # Clients on this machine write artefacts straight into mlruns/, as plain runs do: a run looks
    # the same whether it was logged through the server or into the database.
    own = f"sqlite:///{stack.root / 'mlflow.db'}"
    places = ["--backend-store-uri", os.environ.get("MLFLOW_BACKEND_STORE_URI") or own]
    places += ["--default-artifact-root", (stack.root / "mlruns").as_uri(), "--no-serve-artifacts"]
    address = ["--host", HOST, "--port", str(stack.mlflow_port), "--workers", "1"]
    return ["mlflow", "server", *places, *address]


def _worker() -> list[str]:
    # One run at a time: all of them work in this one folder.
    return ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--limit", "1"]


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


def _is_whole(stack: Stack) -> bool:
    return {item.name for item in running(stack.processes)} == {*_SERVERS, "worker"}


def _addresses(stack: Stack) -> str:
    return f"Prefect {stack.api.removesuffix('/api')}, MLflow {stack.tracking}"


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
