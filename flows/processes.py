"""Servers as processes of this machine: started, noted in a file, waited for and ended.

A process's number goes to another one after it ends, so each is known by its time of creation too.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from fmbseg.errors import ConfigError
from fmbseg.store.atomic import write_atomically

HOST = "127.0.0.1"
_START_SECONDS = 300.0
_STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Started:
    """A process that was started here.

    Attributes:
        name: what it is for.
        pid: its number.
        created: when, in seconds since 1970.
        port: what it listens on, of this machine; None: nothing.
    """

    name: str
    pid: int
    created: float
    port: int | None = None


def spawn(
    name: str,
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    port: int | None = None,
) -> Started:
    """Start a Python module that outlives this process; what it prints is appended to `log`.

    Args:
        name: of the process.
        command: the module's name and its arguments.
        cwd: where it runs.
        environment: all of its variables.
        log: file.
        port: what it will listen on.
    """
    # As a module: what is on the PATH under its name may belong to another environment.
    arguments = [sys.executable, "-m", *command]
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Started(name, process.pid, psutil.Process(process.pid).create_time(), port)


def remember(notes: Path, started: Sequence[Started]) -> None:
    """Note processes in a file, in place of those noted before."""
    text = json.dumps([asdict(item) for item in started], indent=1)
    write_atomically(notes, text.encode())


def noted(notes: Path) -> list[Started]:
    """The processes of a file of notes, whether they run or not; none where it is missing."""
    try:
        entries = json.loads(notes.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [Started(**entry) for entry in entries]


def running(notes: Path) -> list[Started]:
    """The processes of a file of notes that still run."""
    return [item for item in noted(notes) if _process(item)]


def wait(item: Started, log: Path, ready: Callable[[], bool]) -> None:
    """Return when `ready` says so.

    Raises:
        ConfigError: the process ended, or did not get ready in time.
    """
    end_of_patience = time.monotonic() + _START_SECONDS
    while not ready():
        if _process(item) is None:
            raise ConfigError(f"{item.name} ended when it started: see {log}")
        if time.monotonic() > end_of_patience:
            raise ConfigError(f"{item.name} did not answer in {_START_SECONDS:.0f} s: see {log}")
        time.sleep(0.5)


def serves(item: Started, url: str) -> bool:
    """Whether a URL answers, and the process or a child of it is who listens on its port.

    Whoever took the port between our look at it and the server's would answer as well.
    """
    return _listens(item) and _answers(url)


def is_taken(port: int) -> bool:
    """Whether another process listens on a port of this machine."""
    with socket.socket() as probe:
        # As servers do: a port whose last owner has just gone is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def end(item: Started) -> None:
    """End a process and its children: politely, and after a while not so."""
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


def _process(item: Started) -> psutil.Process | None:
    """The process while it lives."""
    try:
        process = psutil.Process(item.pid)
        same = process.create_time() == item.created
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


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
