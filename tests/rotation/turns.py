"""Slow tests by turns: each landing runs some, and within a round of turns each piece has run.

pytest -m slow --turn auto      # the turn by the number of landings
pytest -m slow --turn 3         # a turn by its number
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

PLAN = Path(__file__).with_name("slow-tests.yaml")
_UNKNOWN_SECONDS = 60.0


@dataclass(frozen=True)
class Piece:
    """Slow tests that run together.

    Attributes:
        name: pattern of their ids, or a file.
        seconds: they take.
        tests: their ids, in order.
        parts: every so many-th of them runs when its turn comes.
    """

    name: str
    seconds: float
    tests: tuple[str, ...]
    parts: int = 1

    def of_round(self, number: int) -> tuple[str, ...]:
        """What of it runs in a round; all of it has run after `parts` rounds."""
        return self.tests[number % self.parts :: self.parts]


def pieces_of(tests: Iterable[str], plan: Mapping[str, Any]) -> list[Piece]:
    """All tests in pieces: as the plan has them, others by file; those that always run are not."""
    found: dict[str, list[str]] = {}
    rows = {row["tests"]: row for row in plan["pieces"]}
    for test in tests:
        file = test.partition("::")[0]
        if file in plan["always"]:
            continue
        # fnmatch takes brackets for sets of characters.
        plain = test.replace("[", "(")
        name = next((pattern for pattern in rows if fnmatchcase(plain, pattern)), file)
        found.setdefault(name, []).append(test)
    return [
        Piece(
            name,
            float(rows.get(name, {}).get("seconds", _UNKNOWN_SECONDS)),
            tuple(members),
            int(rows.get(name, {}).get("parts", 1)),
        )
        for name, members in found.items()
    ]


def turns_of(pieces: Sequence[Piece], capacity: float) -> list[list[Piece]]:
    """Pieces in turns that take `capacity` seconds at most, or hold one piece that takes longer."""
    turns: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda each: (-each.seconds, each.name)):
        for turn in turns:
            if sum(each.seconds for each in turn) + piece.seconds <= capacity:
                turn.append(piece)
                break
        else:
            turns.append([piece])
    return turns


def chosen(tests: Sequence[str], number: int, plan: Mapping[str, Any]) -> tuple[list[str], int]:
    """The tests of a landing, counted from 0, and how many turns there are."""
    turns = turns_of(pieces_of(tests, plan), plan["capacity"])
    if not turns:
        return [], 0
    round_, turn = divmod(number, len(turns))
    return [test for piece in turns[turn] for test in piece.of_round(round_)], len(turns)


def landing(root: Path) -> int:
    """Which landing this is: how many commits stand on the branch itself, merges as one.

    A shallow clone does not know; there the commit's own hash draws a number.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    if git("rev-parse", "--is-shallow-repository") == "true":
        return int(git("rev-parse", "HEAD")[:8], 16)
    return int(git("rev-list", "--first-parent", "--count", "HEAD"))


def read_plan(path: Path = PLAN) -> dict[str, Any]:
    """The pieces and what they take."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found
