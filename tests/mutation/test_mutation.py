"""Mutants are what they say they are, reach whoever holds the module's parts, and are noticed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.mutation.mutants import mutants
from tests.mutation.swapping import swap
from tests.mutation.targets import TARGETS

EACH = {
    "a < b": {"a <= b"},
    "a < b == c": {"a <= b == c", "a < b != c"},
    "a is not None": {"a is None"},
    "a + 1": {"a - 1", "2"},
    "a and b": {"a or b"},
    "not a": {"a"},
    "-a": {"a"},
    "a if b else c": {"a if not b else c"},
    "min(a, b)": {"max(a, b)"},
    "a(b, c=d)": {"a(b)"},
    "a(**b)": set(),
    "True": {"False"},
    "None": set(),
    "'a'": {"'XXaXX'"},
    "f'{a} of 3'": set(),
}


@pytest.mark.parametrize("text", EACH)
def test_each_change_of_an_expression(text: str) -> None:
    new = {mutant.new for mutant in mutants(f"x = {text}\n", "a.py")}
    assert new == EACH[text]


def test_each_change_of_a_statement() -> None:
    source = """
def f(a: int = 1) -> str:
    '''Says 1.'''
    assert a > 2
    a += 3
    while a:
        break
    if not a:
        return 'x'
    if a:
        raise ValueError(f'{a} is 1', 'no' + 'name')
    call()
    return 'y'
"""
    found = [(m.line, m.old, m.new) for m in mutants(source, "a.py")]
    assert sorted(found) == sorted(
        [
            (2, "1", "2"),
            (5, "a += 3", "pass"),
            (5, "a += 3", "a -= 3"),
            (5, "3", "4"),
            (6, "while a:", "while not a:"),
            (7, "break", "continue"),
            (8, "not a", "a"),
            (9, "return 'x'", "pass"),
            (9, "'x'", "'XXxXX'"),
            (10, "if a:", "if not a:"),
            (11, "raise ValueError(f'{a} is 1', 'no' + 'name')", "pass"),
            (12, "call()", "pass"),
            (13, "'y'", "'XXyXX'"),
        ]
    )
    lines = {m.old: m.lines for m in mutants(source, "a.py")}
    assert lines["if a:"] == range(10, 11)  # without what is in it


def test_a_mutant_differs_in_one_place_and_the_next_begins_anew() -> None:
    source = "def f(a):\n    return (a + 1) * 2\n"
    values = {}
    for mutant in mutants(source, "a.py"):
        room: dict[str, object] = {}
        exec(mutant.code, room)
        values[mutant.new] = room["f"](3)  # type: ignore[operator]
    assert values == {"(a + 1) / 2": 2.0, "a - 1": 4, "2": 10, "3": 12}


HELD = """
from contextlib import contextmanager
from dataclasses import dataclass
LIMIT = 1
def plain(a=2):
    return a + LIMIT
@contextmanager
def managed():
    yield 3
@dataclass(frozen=True)
class Class:
    x: int = 4
    kind = 'old'
    @property
    def one(self):
        return self.x + 5
    @staticmethod
    def two():
        return 6
"""


@pytest.fixture
def held() -> Iterator[ModuleType]:
    module = ModuleType("fmbseg_held")
    sys.modules["fmbseg_held"] = module
    exec(compile(HELD, "held.py", "exec"), vars(module))
    yield module
    del sys.modules["fmbseg_held"]


def test_who_holds_a_part_of_the_module_has_the_change(held: ModuleType) -> None:
    other = ModuleType("fmbseg_other")
    other.LIMIT = held.LIMIT  # type: ignore[attr-defined]
    sys.modules["fmbseg_other"] = other
    table, thing = {"plain": held.plain, "managed": held.managed}, held.Class()
    text = re.sub(r"(\d)", r"\g<1>0", HELD).replace("old", "new")
    swap(held, compile(text, "held.py", "exec"))
    del sys.modules["fmbseg_other"]
    assert table["plain"]() == 30
    with table["managed"]() as value:
        assert value == 30
    assert thing.one == 4 + 50 and thing.two() == 60 and thing.kind == "new"
    assert held.Class().x == 40 and isinstance(thing, held.Class)
    assert other.LIMIT == 10


RUN = """
import json, sys
from pathlib import Path
from tests.mutation.mutants import mutants
from tests.mutation.running import collected
file = Path("double.py")
def work(tests):
    clean = tests.clean(file.absolute(), ["test_double.py"])
    found = {}
    for mutant in mutants(file.read_text(), "double.py"):
        names = clean.noticing(mutant.lines)
        end = tests.mutated("double", mutant.code, names, 5.0)
        found[mutant.name] = [end.code, len(names), end.told.get("failed")]
    Path("found.json").write_text(json.dumps(found))
collected(["test_double.py"], work)
"""


def test_mutants_are_noticed_survive_or_never_end(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "double.py").write_text(
        "def double(a):\n    while a < 0:\n        a += 1\n    return a * 2\n\n"
        "def unused():\n    return 1 > 0\n"
    )
    (tmp_path / "test_double.py").write_text(
        "from double import double\n\ndef test_double():\n    assert double(2) == 4\n\n"
        "def test_negative():\n    assert double(-1) == 0\n"
    )
    room = {"PYTHONPATH": f"{tmp_path}:{repository}", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, cwd=tmp_path, env=room, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["4:11 `a * 2` -> `a / 2`"] == [1, 2, "test_double.py::test_double"]
    assert found["2:10 `a < 0` -> `a <= 0`"][:1] == [1]
    assert found["3:8 `a += 1` -> `pass`"][:2] == [None, 1]  # without end, and one test comes there
    assert found["7:11 `1 > 0` -> `1 >= 0`"] == [0, 0, None]  # no test runs it


def test_what_is_mutated_and_its_tests_are_there(repository: Path) -> None:
    for target in TARGETS:
        file = repository / target.file
        some = list(mutants(file.read_text(encoding="utf-8"), target.file, target.only))
        assert some and len({mutant.name for mutant in some}) == len(some)
        assert all((repository / name).is_file() for name in target.tests)
