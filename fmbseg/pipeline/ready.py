"""A process that has imported the libraries, and is forked for each stage that `repro` runs.

Importing torch and what stands on it takes three to five seconds of processor time, and the demo is
32 stages, each a process of its own. `fmbseg` looks at `FMBSEG_READY` before it imports anything:
where a socket in that folder answers, a fork there does the command with the caller's terminal,
folder and environment, and the caller passes signals on and ends as the fork does. Where nobody
answers it does the command itself. None of this package's own modules is imported before the fork,
so code that changes while stages run is seen by the next of them.

Linux alone, and not beside an NVIDIA GPU: a fork must not come after a library has looked at it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PLACE = "FMBSEG_READY"
"""Environment variable: folder of the socket."""

# What stages spend time on before they do anything. One that is not installed is left out.
_LIBRARIES = (
    "cv2",
    "matplotlib.figure",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "numpy",
    "open_clip",
    "pandas",
    "PIL.Image",
    "pyarrow.parquet",
    "pycocotools.mask",
    "pydantic",
    "segment_anything",
    "timm",
    "torch",
    "typer",
    "yaml",
)
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_LENGTH = struct.Struct("!I")


def possible() -> bool:
    """Whether this system can do it."""
    return hasattr(os, "pidfd_open") and not any(Path("/dev").glob("nvidia[0-9]*"))


class Ready:
    """The process, from `start` to the end of the `with` block, for commands that get `place`.

    Commands that run when it ends are not touched.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(
            prefix="fmbseg-ready-", ignore_cleanup_errors=True
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()  # several lanes may ask

    @property
    def place(self) -> Mapping[str, str]:
        """What a command's environment needs; nothing before `start`."""
        return {} if self._process is None else {PLACE: self._folder.name}

    def start(self) -> None:
        """Start it, if it has not been; commands that come while it imports wait for it."""
        with self._starting:
            if self._process is None and possible():
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__],
                    env=os.environ | {PLACE: self._folder.name},
                    stdin=subprocess.PIPE,  # its end is the sign to stop, whatever becomes of us
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # a terminal's Ctrl-C is for the commands
                )

    def __enter__(self) -> Ready:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
        self._folder.cleanup()


def handed_over(arguments: Sequence[str]) -> int | None:
    """Have `python -m fmbseg` with some arguments done by a fork of the ready process.

    Returns:
        Its exit code, negative: the signal that ended it; None: nobody answers.
    """
    place = os.environ.get(PLACE)
    if place is None or not hasattr(socket, "AF_UNIX"):
        return None
    request = {
        "argv": [sys.argv[0], *arguments],
        "folder": os.getcwd(),
        "environment": {key: value for key, value in os.environ.items() if key != PLACE},
    }
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection, _signals_to(connection):
        try:
            connection.connect(_socket(place))
            socket.send_fds(connection, [_LENGTH.pack(len(content))], [0, 1, 2])
            connection.sendall(content)
        except OSError:
            return None  # nothing was begun: a fork begins with the last byte
        answer = _received(connection, _LENGTH.size)
        # Without an answer the one who waits for the fork is gone, and with it the fork.
        return struct.unpack("!i", answer)[0] if answer else -signal.SIGKILL


@contextmanager
def _signals_to(connection: socket.socket) -> Iterator[None]:
    """Pass signals on to who reads a connection, a byte each, instead of ending by them."""

    def pass_on(number: int, _: object) -> None:
        with suppress(OSError):
            connection.send(bytes([number]))

    # What we were started to ignore, the fork ignores too.
    heard = [each for each in _PASSED_ON if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, pass_on) for each in heard}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _received(connection: socket.socket, length: int) -> bytes:
    """So many bytes, or b"" where the other end closes before."""
    content = b""
    while len(content) < length:
        try:
            part = connection.recv(length - len(content))
        except ConnectionError:
            return b""
        if not part:
            return b""
        content += part
    return content


def main() -> None:
    """Serve until standard input ends; in a fork, be the command that it was made for."""
    request = _serve(os.environ.pop(PLACE))
    if request is None:
        return
    sys.argv = request["argv"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    # Those of the start know a file that is none of the caller's.
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        line_by_line = number == 2 or os.isatty(number)
        buffering = 1 if line_by_line else -1
        setattr(sys, name, open(number, mode, buffering, closefd=False))  # noqa: SIM115
    runpy.run_module("fmbseg", run_name="__main__", alter_sys=True)


def _serve(place: str) -> dict[str, Any] | None:
    """Take callers until standard input ends (None); in the fork for a command, what it is."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(_socket(place))
        door.listen(64)
        for name in _LIBRARIES:
            with suppress(ImportError):
                importlib.import_module(name)
        # What waits for a command is left to itself, and is not waited for.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            called, _, _ = select.select([door.fileno(), sys.stdin.fileno()], [], [])
            if sys.stdin.fileno() in called:
                shutil.rmtree(place, ignore_errors=True)  # who started it may have been killed
                return None
            connection, _ = door.accept()
            if _fork() == 0:
                door.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return _keep(connection)
            connection.close()


def _keep(connection: socket.socket) -> dict[str, Any]:
    """Fork the command, pass it its caller's signals, tell the caller its end; in it, return."""
    head, files, _, _ = socket.recv_fds(connection, _LENGTH.size, 3)
    content = _received(connection, _LENGTH.unpack(head)[0])
    request: dict[str, Any] = json.loads(content)
    command = _fork()
    if command == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return request
    for file in files:
        os.close(file)
    ended = os.pidfd_open(command)
    while True:
        ready, _, _ = select.select([connection.fileno(), ended], [], [])
        if ended in ready:
            break
        # A caller that was killed takes its command with it.
        for number in connection.recv(64) or [signal.SIGKILL]:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(ended, number)
    _, status = os.waitpid(command, 0)
    with suppress(OSError):
        connection.sendall(struct.pack("!i", os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _socket(place: str) -> str:
    # Another environment has other libraries: its commands find nobody.
    return os.path.join(place, hashlib.sha256(sys.prefix.encode()).hexdigest()[:16])


def _fork() -> int:
    # Threads that a library started for sums are made anew by it in the fork.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


if __name__ == "__main__":
    main()
