"""`fmbseg` in forks of one process that has imported everything: a command in a second, not in ten.

A fork is a process of its own: it may be killed, limited, and measured.
"""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

import fmbseg
from fmbseg import cli

WAIT_SECONDS = 60.0
MOST_MB = 2048.0
# Of commands that a library of another extra must be there for.
_LEFT_OUT = ("fmbseg.__main__", "fmbseg.deploy", "fmbseg.quality", "fmbseg.scenes")


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: exit code; negative the signal that killed it.
        said: what it wrote on stdout and stderr.
        seconds: that it ran.
        peak_mb: most memory that was resident.
    """

    code: int
    said: str
    seconds: float
    peak_mb: float

    @property
    def problem(self) -> str | None:
        """What a command must never do, whatever it was given; None: it did not."""
        last = (self.said.strip().splitlines() or [""])[-1]
        if "Traceback (most recent call last)" in self.said:
            return f"traceback: {last[:200]}"
        if self.seconds > WAIT_SECONDS:
            return f"took {self.seconds:.0f} s"
        if self.peak_mb > MOST_MB:
            return f"took {self.peak_mb:.0f} MB"
        if self.code not in (0, 1, 2):
            return f"ended with {self.code}: {last[:200]}"
        # What was done is said, too, and of a batch it may come last.
        lines = [line.strip() for line in self.said.splitlines()]
        if self.code == 2 and not any(each.startswith(("fmbseg: ", "broken: ")) for each in lines):
            return f"no line says why: {last[:200]}"
        return None


@dataclass
class Fork:
    """A command that runs."""

    pid: int
    said: int  # the pipe that it writes to: a limit of files' sizes does not hold for it
    begin: float

    def kill(self) -> None:
        """End it as the system would: at once, without a word to it."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = 3 * WAIT_SECONDS) -> Outcome:
        """Wait for its end, so long at most; then it is killed."""
        end, parts = time.monotonic() + seconds, []
        os.set_blocking(self.said, False)
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            with suppress(BlockingIOError):
                while part := os.read(self.said, 1 << 16):
                    parts.append(part)
            if pid:
                break
            if time.monotonic() > end:
                self.kill()
                end = float("inf")
            time.sleep(0.01)
        os.close(self.said)
        said = b"".join(parts).decode(errors="replace")
        taken = time.monotonic() - self.begin
        return Outcome(os.waitstatus_to_exitcode(status), said, taken, usage.ru_maxrss / 1024)


def preload() -> None:
    """Import every module of the package, so that forks have them."""
    for module in pkgutil.walk_packages(fmbseg.__path__, "fmbseg."):
        if not module.name.startswith(_LEFT_OUT):
            importlib.import_module(module.name)
    torch.set_num_threads(1)  # threads do not survive a fork: none may have been started


def start(
    arguments: Sequence[str],
    folder: Path,
    limits: Mapping[int, int] | None = None,
    before: Callable[[], None] | None = None,
) -> Fork:
    """Start `fmbseg ARGUMENTS` in a folder.

    Args:
        arguments: of the command line.
        folder: it runs in.
        limits: of the system, by `resource.RLIMIT_...`.
        before: called in the fork first.
    """
    reads, descriptor = os.pipe()
    begin = time.monotonic()
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return Fork(pid, reads, begin)
    code = 70
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        os.chdir(folder)
        for kind, most in (limits or {}).items():
            resource.setrlimit(kind, (most, most))
        logging.root.handlers.clear()
        sys.argv = ["fmbseg", *arguments]
        if before is not None:
            before()
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


def call(
    arguments: Sequence[str],
    folder: Path,
    limits: Mapping[int, int] | None = None,
    before: Callable[[], None] | None = None,
) -> Outcome:
    """`start`, and wait for the end."""
    return start(arguments, folder, limits, before).wait()
