"""Prefect server, MLflow server and a worker on this machine: `make stack`, `make stack-stop`.

Everything they keep lies in `.stack/` of the project (Prefect) and in its `mlflow.db` and
`mlruns/` (MLflow, the same that plain runs log to). `prefect.toml`, written here, tells the
`prefect` command in this folder where the server is.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import WorkPoolStatus
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.common import slot_name
from flows.stack_parts import (
    HOST,
    MARK,
    POOL,
    PORTS,
    Stack,
    end,
    family,
    left_behind,
    open_stack,
    parts,
    serves,
    spawn,
    write_secret,
)
from fmbseg.errors import ConfigError, FmbsegError, one_line

_START_SECONDS = 300.0
_SAY_SECONDS = 15.0


def start(stack: Stack) -> None:
    """Start what does not run of it, and return when everything answers.

    What runs is left as it is: where MLflow has ended, the worker and its run go on.

    Raises:
        ConfigError: a port is taken, MLflow could not ask for its password, or a part ended or did
            not answer in time.
    """
    addresses = f"Prefect {stack.api.removesuffix('/api')}, MLflow {stack.tracking}"
    missing = [name for name in stack.commands if name not in parts(stack)]
    if not missing:
        print(f"the stack runs already: {addresses}")
        return
    runs, others = left_behind(stack)
    end(others, psutil.Process.kill)
    _require_startable(stack, missing)
    stack.folder.mkdir(parents=True, exist_ok=True)
    print(f"starting {', '.join(missing)} (half a minute, longer for the first time)")
    if runs and "worker" in missing:
        print("a run of a worker that is gone works on: the new one waits until it has ended")
    try:
        for name in ("prefect", "mlflow"):
            if name in missing:
                spawn(stack, name)
        wait(stack, "prefect", lambda: serves(stack, stack.prefect_port, f"{stack.api}/health"))
        with _client(stack) as client:
            if name := slot_name():
                client.upsert_global_concurrency_limit_by_name(name, 1)
            if "worker" in missing:
                spawn(stack, "worker")
            wait(stack, "worker", lambda: _has_worker(client))
        wait(stack, "mlflow", lambda: _mlflow_answers(stack))
    except BaseException:
        _end_parts(stack, missing)
        raise
    write_secret(
        stack.root / "prefect.toml",
        "# Written by `make stack`, removed by `make stack-stop`.\n"
        f"home = {json.dumps(str(stack.folder / 'prefect'))}\n"
        f"[api]\nurl = {json.dumps(stack.api)}\nauth_string = {json.dumps(stack.login)}\n",
    )
    print(f"{addresses}, pool {POOL}")
    print(f"Prefect's pages ask for the line in {stack.folder / 'login'}")
    if stack.mlflow_login is not None:
        print(f"MLflow's ask for user and password, which are in {stack.folder / 'mlflow-login'}")
    if os.environ.get("PREFECT_API_URL", stack.api).rstrip("/") != stack.api:
        print("PREFECT_API_URL names another server, and `prefect` asks that one: unset it")


def stop(stack: Stack) -> None:
    """End the parts and whatever they have started: politely, and after a while not so."""
    (stack.root / "prefect.toml").unlink(missing_ok=True)
    # The worker first: it tells the server what became of its runs.
    for name, process in reversed(parts(stack).items()):
        end([process], psutil.Process.terminate)
        print(f"stopped {name}")
    end(family(stack.root), psutil.Process.kill)


def deploy(stack: Stack) -> None:
    """Register the deployments of prefect.yaml with the stack's server.

    Raises:
        ConfigError: the stack does not run, or Prefect refused.
    """
    # Where its server is gone, another project's may have the port by now.
    if "prefect" not in parts(stack):
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
    with _client(stack) as client:
        for each in client.read_deployments():
            print(f"{client.read_flow(each.flow_id).name}/{each.name}")
    print("start one with `prefect deployment run fmbseg/full --watch`")


def ui(stack: Stack) -> None:
    """Show the runs with a server of MLflow alone, in place of this process.

    Raises:
        ConfigError: the port is taken, or MLflow could not ask for its password.
    """
    if "mlflow" in parts(stack):
        print(f"the stack shows them already: {stack.tracking}")
        return
    _require_startable(stack, ["mlflow"])
    print(f"MLflow on {stack.tracking}, until Ctrl-C", flush=True)
    if stack.mlflow_login is not None:
        print(f"user and password are in {stack.folder / 'mlflow-login'}", flush=True)
    own = {name: value for name, value in stack.environment.items() if name != MARK}
    os.execve(sys.executable, [sys.executable, "-m", *stack.commands["mlflow"]], own)


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


def _require_startable(stack: Stack, missing: list[str]) -> None:
    if "mlflow" in missing and stack.mlflow_login is not None and find_spec("flask_wtf") is None:
        raise ConfigError(
            f"at {stack.mlflow_host} MLflow must ask for a password, and what it needs for that is "
            "not installed: pip install 'fmbseg[server]', or leave FMBSEG_MLFLOW_HOST out"
        )
    places = {"prefect": (HOST, stack.prefect_port)}
    places["mlflow"] = (stack.mlflow_host, stack.mlflow_port)
    for part in PORTS:
        if part not in missing:
            continue
        host, port = places[part]
        try:
            socket.create_server((host, port)).close()
        except OSError as error:
            if not isinstance(error, socket.gaierror) and error.errno != errno.EADDRNOTAVAIL:
                reason = f"port {port} is in use: stop what uses it, or choose another with"
                raise ConfigError(f"{reason} {PORTS[part]}") from error
            raise ConfigError(
                f"FMBSEG_MLFLOW_HOST is {host!r}, which is no address of this machine"
            ) from error


def _mlflow_answers(stack: Stack) -> bool:
    # Not /health: it is exempt from the checks that a client's calls go through.
    experiment = f"{stack.tracking}/api/2.0/mlflow/experiments/get?experiment_id=0"
    return serves(stack, stack.mlflow_port, experiment, stack.mlflow_login)


def _end_parts(stack: Stack, names: list[str]) -> None:
    """End parts whose start failed, with what they have started."""
    running = [process for name, process in parts(stack).items() if name in names]
    children = [each for process in running for each in process.children(recursive=True)]
    end(running, psutil.Process.terminate)
    end([*running, *children], psutil.Process.kill)


@contextmanager
def _client(stack: Stack) -> Iterator[SyncPrefectClient]:
    own = {PREFECT_API_URL: stack.api, PREFECT_API_AUTH_STRING: stack.login}
    with temporary_settings(own), get_client(sync_client=True) as client:
        yield client


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
