"""Turns of slow tests: each is run within a round of turns, none is lost, long ones alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.rotation.turns import chosen, landing, pieces_of, read_plan, turns_of

PLAN = {
    "capacity": 100,
    "always": ["tests/d.py"],
    "pieces": [
        {"tests": "tests/a.py::*", "seconds": 250, "parts": 3},
        {"tests": "tests/b.py::*page.md*", "seconds": 90},
        {"tests": "tests/b.py::*", "seconds": 20},
    ],
}
TESTS = [f"tests/a.py::t[{n}]" for n in range(7)]
TESTS += ["tests/b.py::t[page.md:1]", "tests/b.py::t[page.md:2]", "tests/b.py::t[other.md:1]"]
TESTS += ["tests/c.py::t", "tests/d.py::t"]


def test_each_test_runs_in_a_round_and_parts_in_as_many_rounds_as_there_are() -> None:
    seen: list[str] = []
    _, turns = chosen(TESTS, 0, PLAN)
    assert turns == 3
    for number in range(turns * 3):
        some, _ = chosen(TESTS, number, PLAN)
        assert some
        seen += some
    assert set(seen) == set(TESTS) - {"tests/d.py::t"}
    assert {seen.count(test) for test in TESTS[:7]} == {1}
    assert seen.count("tests/c.py::t") == 3


def test_a_turn_is_no_longer_than_it_may_be_unless_one_piece_is() -> None:
    for turn in turns_of(pieces_of(TESTS, PLAN), PLAN["capacity"]):  # type: ignore[arg-type]
        assert len(turn) == 1 or sum(piece.seconds for piece in turn) <= 100


def test_the_plan_names_files_that_are_there(repository: Path) -> None:
    plan = read_plan()
    for row in [*plan["pieces"], *({"tests": name} for name in plan["always"])]:
        place = repository / row["tests"].partition("::")[0].removesuffix("/*")
        assert place.exists(), row
    assert max(row["seconds"] for row in plan["pieces"]) <= 750


def test_landings_are_counted_and_a_shallow_clone_draws(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, timeout=60)

    git("init", "-q", "whole")
    for number in range(3):
        git("-C", "whole", "commit", "-q", "--allow-empty", "-m", str(number))
    git("-C", "whole", "checkout", "-q", "-b", "side")
    for number in range(4):
        git("-C", "whole", "commit", "-q", "--allow-empty", "-m", f"side {number}")
    git("-C", "whole", "checkout", "-q", "-")
    git("-C", "whole", "merge", "-q", "--no-ff", "-m", "landing", "side")
    assert landing(tmp_path / "whole") == 4
    git("clone", "-q", "--depth", "1", f"file://{tmp_path}/whole", "shallow")
    assert landing(tmp_path / "shallow") == landing(tmp_path / "shallow") > 4


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
    for command in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "x")):
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        subprocess.run(["git", *who, *command], check=True)
    result = pytester.runpytest_subprocess("-m", "slow", "--turn", turn)
    result.stdout.re_match_lines([r".*turn \d of \d+: \d of 4 slow tests"])
