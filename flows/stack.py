"""Prefect server, MLflow server and a worker on this machine: `make stack`, `make stack-stop`.

Everything they keep lies in `.stack/` of the project (Prefect) and in its `mlflow.db` and
`mlruns/` (MLflow, the same that plain runs log to). `prefect.toml`, written here, tells the
`prefect` command in this folder where the server is.

Which processes are a stack's, their environment says: it names the project, and whatever they start
inherits that. So there is no note of process numbers that a kill or a restart could make wrong.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import WorkPoolStatus
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.common import slot_name
from fmbseg.errors import ConfigError, FmbsegError, one_line
from fmbseg.web.guard import LOOPBACK

HOST = "127.0.0.1"
POOL = "fmbseg"
_PORTS = {"FMBSEG_PREFECT_PORT": 4200, "FMBSEG_MLFLOW_PORT": 5000}
_MARK = "FMBSEG_STACK"
_START_SECONDS = 300.0
_STOP_SECONDS = 20.0
_SAY_SECONDS = 15.0


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
        return f"http://{HOST}:{self.prefect_port}/api"

    @property
    def tracking(self) -> str:
        """MLflow."""
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def login(self) -> str:
        """`user:password` that Prefect's server asks for; made with the stack's folder."""
        place = self.folder / "login"
        if not place.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_secret(place, f"fmbseg:{secrets.token_urlsafe(24)}\n")
        return place.read_text(encoding="utf-8").strip()

    def log(self, part: str) -> Path:
        """What a part prints."""
        return self.folder / f"{part}.log"

    @property
    def commands(self) -> Mapping[str, list[str]]:
        """Module and arguments of each part, in the order of their start."""
        # Clients on this machine write artefacts straight into mlruns/, as plain runs do: a run
        # looks the same whether it was logged through the server or into the database.
        own = f"sqlite:///{self.root / 'mlflow.db'}"
        places = ["--backend-store-uri", os.environ.get("MLFLOW_BACKEND_STORE_URI") or own]
        places += ["--default-artifact-root", (self.root / "mlruns").as_uri()]
        mlflow = ["--host", HOST, "--port", str(self.mlflow_port), "--workers", "1"]
        prefect = ["--host", HOST, "--port", str(self.prefect_port)]
        return {
            "prefect": ["flows.server", "start", *prefect],
            "mlflow": ["mlflow", "server", *places, "--no-serve-artifacts", *mlflow],
            # One run at a time: all of them work in this one folder.
            "worker": f"flows.worker start --pool {POOL} --type process --limit 1".split(),
        }

    @property
    def environment(self) -> dict[str, str]:
        """What the parts, and the runs that the worker starts, find in their environment."""
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
            # `prefect deployment run --watch` shows what a run logs, the reason of its end too.
            "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
            "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
            # Which slots are taken is in the database; until when, by default in the server's
            # memory: the slot of a run that was killed would stay taken after a restart.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
        }
        return {
            **defaults,
            **os.environ,
            _MARK: str(self.root),
            "FMBSEG_MLFLOW_PORT": str(self.mlflow_port),
            "FMBSEG_PREFECT_PORT": str(self.prefect_port),
            "MLFLOW_TRACKING_URI": self.tracking,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PREFECT_API_AUTH_STRING": self.login,
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_LOGGING_EXTRA_LOGGERS": "fmbseg",
            "PREFECT_SERVER_API_AUTH_STRING": self.login,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
                f"http://{name}:{self.prefect_port}" for name in LOOPBACK
            ),
            # Every ten seconds is long to wait for a run that takes half a minute.
            "PREFECT_WORKER_QUERY_SECONDS": "5",
            "PYTHONPATH": os.pathsep.join(filter(None, places)),
        }


def open_stack(root: Path = Path(".")) -> Stack:
    """The stack of a project, with the ports that it runs on, otherwise those of the environment.

    Raises:
        ConfigError: a port is no port.
    """
    root = root.resolve()
    # What was given when it was started need not be given again: at another port there may be
    # another project's stack.
    running = _family(root)
    own = running[0].environ() if running else os.environ
    ports = []
    for name, default in _PORTS.items():
        text = own.get(name) or str(default)
        if not text.isdigit() or not 0 < int(text) < 65536:
            raise ConfigError(f"{name} is {text!r}: give a port, such as {default}")
        ports.append(int(text))
    return Stack(root, *ports)


def start(stack: Stack) -> None:
    """Start all parts and return when everything answers; a stack that runs is left as it is.

    Raises:
        ConfigError: a port is taken, or a part ended or did not answer in time.
    """
    addresses = f"Prefect {stack.api.removesuffix('/api')}, MLflow {stack.tracking}"
    if _is_whole(stack):
        print(f"the stack runs already: {addresses}")
        return
    stop(stack)
    for name, port in zip(_PORTS, (stack.prefect_port, stack.mlflow_port), strict=True):
        _require_free(name, port)
    stack.folder.mkdir(parents=True, exist_ok=True)
    print("starting Prefect, a worker and MLflow (half a minute, longer for the first time)")
    try:
        spawn(stack, "prefect")
        spawn(stack, "mlflow")
        wait(stack, "prefect", lambda: serves(stack, stack.prefect_port, f"{stack.api}/health"))
        with (
            temporary_settings({PREFECT_API_URL: stack.api, PREFECT_API_AUTH_STRING: stack.login}),
            get_client(sync_client=True) as client,
        ):
            if name := slot_name():
                client.upsert_global_concurrency_limit_by_name(name, 1)
            spawn(stack, "worker")
            wait(stack, "worker", lambda: _has_worker(client))
        # Not /health: it is exempt from the checks that a client's calls go through.
        experiment = f"{stack.tracking}/api/2.0/mlflow/experiments/get?experiment_id=0"
        wait(stack, "mlflow", lambda: serves(stack, stack.mlflow_port, experiment))
    except BaseException:
        stop(stack)
        raise
    _write_secret(
        stack.root / "prefect.toml",
        "# Written by `make stack`, removed by `make stack-stop`.\n"
        f"home = {json.dumps(str(stack.folder / 'prefect'))}\n"
        f"[api]\nurl = {json.dumps(stack.api)}\nauth_string = {json.dumps(stack.login)}\n",
    )
    print(f"{addresses}, pool {POOL}")
    print(f"Prefect's pages ask for the line in {stack.folder / 'login'}")
    if os.environ.get("PREFECT_API_URL", stack.api).rstrip("/") != stack.api:
        print("PREFECT_API_URL names another server, and `prefect` asks that one: unset it")


def stop(stack: Stack) -> None:
    """End the parts and whatever they have started: politely, and after a while not so."""
    (stack.root / "prefect.toml").unlink(missing_ok=True)
    # The worker first: it tells the server what became of its runs.
    for name, process in reversed(parts(stack).items()):
        _end([process], psutil.Process.terminate)
        print(f"stopped {name}")
    _end(_family(stack.root), psutil.Process.kill)


def deploy(stack: Stack) -> None:
    """Register the deployments of prefect.yaml with the stack's server.

    Raises:
        ConfigError: the stack does not run, or Prefect refused.
    """
    # All of it: where its server is gone, another project's may have the port by now.
    if not _is_whole(stack):
        raise ConfigError("the stack does not run, or not all of it: start it with `make stack`")
    print("registering the deployments of prefect.yaml", flush=True)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    # What it prints is a box of advice for each of them.
    done = subprocess.run(
        command, cwd=stack.root, env=stack.environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise ConfigError("`prefect deploy` failed: see its message above")
    with temporary_settings({PREFECT_API_URL: stack.api}), get_client(sync_client=True) as client:
        for each in client.read_deployments():
            print(f"{client.read_flow(each.flow_id).name}/{each.name}")
    print("start one with `prefect deployment run fmbseg/full --watch`")


def ui(stack: Stack) -> None:
    """Show the runs with a server of MLflow alone, in place of this process.

    Raises:
        ConfigError: the port is taken.
    """
    if "mlflow" in parts(stack):
        print(f"the stack shows them already: {stack.tracking}")
        return
    _require_free("FMBSEG_MLFLOW_PORT", stack.mlflow_port)
    print(f"MLflow on {stack.tracking}, until Ctrl-C", flush=True)
    own = {name: value for name, value in stack.environment.items() if name != _MARK}
    os.execve(sys.executable, [sys.executable, "-m", *stack.commands["mlflow"]], own)


def spawn(stack: Stack, part: str) -> None:
    """Start a part, which outlives this process; what it prints is appended to its log."""
    # As a module: what is on the PATH under its name may belong to another environment.
    command = [sys.executable, "-m", *stack.commands[part]]
    with stack.log(part).open("ab") as output:
        subprocess.Popen(
            command,
            cwd=stack.root,
            env=stack.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def parts(stack: Stack) -> dict[str, psutil.Process]:
    """The parts that run, by name, in the order of their start."""
    running = {}
    for process in _family(stack.root):
        with suppress(psutil.Error):
            running[(*process.cmdline()[2:4],)] = process
    # By module and first argument: what a part has started may outlive it.
    heads = {name: (*command[:2],) for name, command in stack.commands.items()}
    return {name: running[head] for name, head in heads.items() if head in running}


def wait(stack: Stack, part: str, ready: Callable[[], bool]) -> None:
    """Return when `ready` says so.

    Raises:
        ConfigError: the part ended, or did not get ready in time.
    """
    end_of_patience = time.monotonic() + _START_SECONDS
    begin = shown = time.monotonic()
    while not ready():
        if part not in parts(stack):
            raise ConfigError(f"{part} ended when it started: see {stack.log(part)}")
        if time.monotonic() > end_of_patience:
            raise ConfigError(f"{part} did not answer in time: see {stack.log(part)}")
        if time.monotonic() - shown >= _SAY_SECONDS:
            shown = time.monotonic()
            print(f"waiting for {part}: {shown - begin:.0f} s", flush=True)
        time.sleep(0.5)
    print(f"{part} answers ({time.monotonic() - begin:.0f} s)", flush=True)


def serves(stack: Stack, port: int, url: str) -> bool:
    """Whether a URL answers, and it is one of the stack's processes that listens on the port.

    Whoever took the port between our look at it and the server's would answer as well.
    """
    listening = set()
    for process in _family(stack.root):
        with suppress(psutil.Error):
            found = process.net_connections(kind="tcp")
            listening |= {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
    with suppress(httpx.HTTPError):
        # No proxy stands between this machine and itself.
        return port in listening and httpx.get(url, timeout=10, trust_env=False).is_success
    return False


def _write_secret(place: Path, text: str) -> None:
    """Write a file that nobody but this user may read."""
    place.unlink(missing_ok=True)
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)


def _require_free(name: str, port: int) -> None:
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise ConfigError(
            f"port {port} is in use: stop what uses it, or choose another with {name}"
        ) from error


def _family(root: Path) -> list[psutil.Process]:
    """The processes of a project's stack, this one aside."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone meanwhile, or another user's
            if process.environ().get(_MARK) == str(root) and process.pid != os.getpid():
                found.append(process)
    return found


def _end(processes: list[psutil.Process], how: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            how(process)
    psutil.wait_procs(processes, timeout=_STOP_SECONDS)


def _is_whole(stack: Stack) -> bool:
    return parts(stack).keys() == stack.commands.keys()


def _has_worker(client: SyncPrefectClient) -> bool:
    # The worker makes the pool when it starts; one that is paused has its worker all the same.
    pools = client.read_work_pools()
    return any(pool.name == POOL and pool.status != WorkPoolStatus.NOT_READY for pool in pools)


def main() -> None:
    """Entry point of `python -m flows.stack start|deploy|stop|ui`."""
    actions = {"start": start, "deploy": deploy, "stop": stop, "ui": ui}
    try:
        if sys.argv[1:] not in [[name] for name in actions]:
            raise ConfigError(f"use `python -m flows.stack` with one of {', '.join(actions)}")
        actions[sys.argv[1]](open_stack())
    except FmbsegError as error:
        print(f"fmbseg: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
