"""Slow tests by turns: each landing runs some, and within a round of turns each piece has run.

pytest -m slow --turn auto      # the turn by the number of landings
pytest -m slow --turn 3         # a turn by its number
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

PLAN = Path(__file__).with_name("slow-tests.yaml")
_UNKNOWN_SECONDS = 60.0
# What counts the runs where a service does, each of them a landing.
_COUNTER = "GITHUB_RUN_NUMBER"


@dataclass(frozen=True)
class Piece:
    """Slow tests that run together.

    Attributes:
        name: pattern of their ids, or a file.
        seconds: they take.
        tests: their ids, in order.
    """

    name: str
    seconds: float
    tests: tuple[str, ...]


def pieces_of(tests: Iterable[str], plan: Mapping[str, Any]) -> list[Piece]:
    """All tests in pieces: as the plan has them, others by file."""
    found: dict[str, list[str]] = {}
    rows = {row["tests"]: row for row in plan["pieces"]}
    for test in tests:
        # fnmatch takes brackets for sets of characters.
        plain = test.replace("[", "(")
        file = test.partition("::")[0]
        name = next((pattern for pattern in rows if fnmatchcase(plain, pattern)), file)
        found.setdefault(name, []).append(test)
    return [
        Piece(name, float(rows.get(name, {}).get("seconds", _UNKNOWN_SECONDS)), tuple(members))
        for name, members in found.items()
    ]


def turns_of(pieces: Sequence[Piece], count: int) -> list[list[Piece]]:
    """Pieces in so many turns of about equal length: the longest first, each to the shortest."""
    turns: list[list[Piece]] = [[] for _ in range(count)]
    for piece in sorted(pieces, key=lambda each: (-each.seconds, each.name)):
        min(turns, key=lambda turn: sum(each.seconds for each in turn)).append(piece)
    return turns


def chosen(tests: Sequence[str], number: int, plan: Mapping[str, Any]) -> list[str]:
    """The tests of a landing; all have run after as many landings as there are turns."""
    turns = turns_of(pieces_of(tests, plan), plan["turns"])
    return [test for piece in turns[number % plan["turns"]] for test in piece.tests]


def landing(plan: Mapping[str, Any]) -> int:
    """Which landing this is: as the service counts its runs, else as the plan says."""
    return int(os.environ.get(_COUNTER) or plan["landing"])


def read_plan(path: Path = PLAN) -> dict[str, Any]:
    """The pieces and what they take."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found
