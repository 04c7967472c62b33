"""Turns of slow tests: each is run once within a round of turns, none is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rotation.turns import chosen, landing, pieces_of, read_plan, turns_of

PLAN = {
    "turns": 3,
    "landing": 5,
    "pieces": [
        {"tests": "tests/a.py::*", "seconds": 250},
        {"tests": "tests/b.py::*page.md*", "seconds": 150},
        {"tests": "tests/b.py::*", "seconds": 120},
    ],
}
TESTS = [f"tests/a.py::t[{n}]" for n in range(7)]
TESTS += ["tests/b.py::t[page.md:1]", "tests/b.py::t[page.md:2]", "tests/b.py::t[other.md:1]"]
TESTS += ["tests/c.py::t", "tests/d.py::t"]


def test_each_test_runs_once_in_a_round() -> None:
    for first in (0, 4):
        seen = [test for number in range(3) for test in chosen(TESTS, first + number, PLAN)]
        assert sorted(seen) == sorted(TESTS)


def test_turns_are_about_equally_long() -> None:
    turns = turns_of(pieces_of(TESTS, PLAN), 3)
    assert [[piece.name for piece in turn] for turn in turns] == [
        ["tests/a.py::*"],
        ["tests/b.py::*page.md*", "tests/d.py"],
        ["tests/b.py::*", "tests/c.py"],
    ]


def test_the_longest_of_a_turn_come_first() -> None:
    plan = PLAN | {"turns": 1}
    files = [test.partition("::")[0] for test in chosen(TESTS[::-1], 0, plan)]
    lengths = {"tests/a.py": 250, "tests/b.py": 150, "tests/c.py": 60, "tests/d.py": 60}
    assert files == sorted(files, key=lambda file: -lengths[file])


def test_the_plan_names_files_that_are_there_and_its_turns_are_balanced(repository: Path) -> None:
    plan = read_plan()
    for row in plan["pieces"]:
        place = repository / row["tests"].partition("::")[0].removesuffix("/*")
        assert place.exists(), row
    names = [row["tests"].replace("*", "x") for row in plan["pieces"]]
    lengths = [sum(p.seconds for p in turn) for turn in turns_of(pieces_of(names, plan), 5)]
    assert plan["turns"] == 5
    assert max(lengths) <= 1.2 * sum(lengths) / 5


def test_landings_are_counted_by_the_service_or_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_RUN_NUMBER", "17")
    assert landing(PLAN) == 17
    monkeypatch.delenv("GITHUB_RUN_NUMBER")
    assert landing(PLAN) == 5


@pytest.mark.parametrize("turn", ["auto", "2"])
def test_what_is_left_out_is_counted_and_named(
    pytester: pytest.Pytester, repository: Path, monkeypatch: pytest.MonkeyPatch, turn: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository))
    pytester.makepyfile(
        conftest="pytest_plugins = ['tests.rotation.plugin']",
        test_a="""
        import pytest
        @pytest.mark.slow
        @pytest.mark.parametrize("n", range(3))
        def test_slow(n): pass
        def test_fast(): pass
        """,
        test_b="""
        import pytest
        pytestmark = pytest.mark.slow
        def test_slow(): pass
        """,
    )
    pytester.makeini("[pytest]\nmarkers = slow: x")
    result = pytester.runpytest_subprocess("-m", "slow", "--turn", turn)
    result.stdout.re_match_lines([r".*turn \d of \d+: \d of 4 slow tests"])
