"""Tests in forks of one process that has imported and collected all of them."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import coverage
import pytest

from tests.mutation.swapping import swap

_MOST_BYTES = 12 << 30  # of address space: a mutant may ask for any number of bytes


@dataclass(frozen=True)
class Clean:
    """What tests do with a module as it is.

    Attributes:
        seconds: of each test, by its id; the fastest first.
        lines: the tests that run a line, by its number.
    """

    seconds: dict[str, float]
    lines: dict[int, list[str]]

    def noticing(self, lines: range | None) -> list[str]:
        """Tests that run one of these lines, the fastest first; None: all."""
        if lines is None:
            return list(self.seconds)
        wanted = {name for line in lines for name in self.lines.get(line, [])}
        return [name for name in self.seconds if name in wanted]


@dataclass(frozen=True)
class End:
    """How a run of tests ended.

    Attributes:
        code: 0 when all passed, else of the fork's end; negative a signal; None: it took too long.
        told: what it told.
    """

    code: int | None
    told: dict[str, Any]


def collected(tests: Sequence[str], work: Callable[[Tests], None]) -> None:
    """Collect test files and do some work with them in this process.

    Raises:
        RuntimeError: they cannot be collected.
    """
    plugin = _Loop(work)
    with tempfile.TemporaryDirectory(prefix="fmbseg-mutants-") as folder:
        options = ["-q", "-s", "-m", "not slow", "-p", "no:cacheprovider"]
        # Made by each fork anew: here no test is run.
        options += ["--basetemp", f"{folder}/tests"]
        code = pytest.main([*tests, *options], plugins=[plugin])
    if code != 0:
        raise RuntimeError(f"pytest ended with {code}: see what it says above")


class _Loop:
    """A plugin: work in the place of running the tests."""

    def __init__(self, work: Callable[[Tests], None]) -> None:
        self.work = work

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("not all tests could be collected")
        self.work(Tests(session))
        return True


class Tests:
    """Tests that have been collected."""

    def __init__(self, session: pytest.Session) -> None:
        self.items = {item.nodeid: item for item in session.items}

    def clean(self, file: Path, tests: Sequence[str]) -> Clean:
        """Run all tests of some files, and see what they run of one file.

        Raises:
            RuntimeError: one fails.
        """
        names = [name for name in self.items if name.partition("::")[0] in tests]

        known = set(sys.modules)

        def run() -> dict[str, Any]:
            watching = coverage.Coverage(data_file=None, include=[str(file)], config_file=False)
            watching.start()
            seconds = {}
            for name in names:
                watching.switch_context(name)
                begin = time.monotonic()
                if failed := self._failing([name]):
                    return {"failed": failed}
                seconds[name] = time.monotonic() - begin
            watching.stop()
            lines = watching.get_data().contexts_by_lineno(str(file))
            imported = [each for each in sys.modules if each not in known]
            return {"seconds": seconds, "lines": lines, "imported": imported}

        end = _forked(run, 1200.0)
        if "seconds" not in end.told:
            raise RuntimeError(f"without any change {end.told.get('failed', names)} fails")
        # What tests import as they run, no fork is to import again.
        for module in end.told["imported"]:
            with suppress(Exception):  # a part of another, which has no file
                importlib.import_module(module)
        seconds = dict(sorted(end.told["seconds"].items(), key=lambda item: item[1]))
        return Clean(seconds, {int(line): some for line, some in end.told["lines"].items()})

    def mutated(self, module: str, code: CodeType, names: Sequence[str], limit: float) -> End:
        """Run tests in their order until one fails, with a module of changed code.

        Args:
            module: that is changed.
            code: it becomes.
            names: ids of tests.
            limit: seconds.

        Returns:
            Its end; of one that failed `by` names the test.
        """

        def run() -> dict[str, Any]:
            try:
                swap(sys.modules[module], code)
            except Exception as error:
                return {"failed": f"import: {type(error).__name__}"}
            return {"failed": self._failing(names)}

        return _forked(run, limit)

    def _failing(self, names: Sequence[str]) -> str | None:
        """The first of these tests that fails."""
        items = [self.items[name] for name in names]
        for item, following in zip(items, [*items[1:], None], strict=False):
            before = item.session.testsfailed
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if item.session.testsfailed > before:
                return item.nodeid
        return None


def _forked(run: Callable[[], dict[str, Any]], limit: float) -> End:
    """Work in a fork, which is a session of its own: it ends as a whole."""
    with tempfile.TemporaryDirectory(prefix="fmbseg-mutant-") as folder:
        told = Path(folder) / "told.json"
        pid = os.fork()
        if not pid:
            _in_fork(run, told)
        code = _wait(pid, limit)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what it has started
        return End(code, json.loads(told.read_text()) if told.exists() else {})


def _in_fork(run: Callable[[], dict[str, Any]], told: Path) -> None:
    code = 70
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
        found = run()
        told.write_text(json.dumps(found))
        code = int(found.get("failed") is not None)
    finally:
        os._exit(code)


def _wait(pid: int, limit: float) -> int | None:
    """Its exit code; None: it was killed, for its time was over."""
    end, late = time.monotonic() + limit, False
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return None if late else os.waitstatus_to_exitcode(status)
        if time.monotonic() > end and not late:
            late = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)
