"""A killed flow goes on where it was: once in every stage, against real servers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows import killing
from tests.flows.stack import Stack

pytestmark = pytest.mark.slow
PARTS = 5  # each can run alone, within some minutes
Quiet = tuple[Stack, dict[str, bytes], dict[str, float]]


@pytest.fixture(scope="module")
def quiet(repository: Path) -> Iterator[Quiet]:
    """A project after a run that nobody disturbed, its outs, and what each stage took."""
    with killing.project(repository) as project:
        expected, seconds = killing.undisturbed(project)
        assert sum(name.endswith(".png") for name in expected) > 24
        yield project, expected, seconds


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_or_computed_twice(quiet: Quiet, part: int) -> None:
    project, expected, seconds = quiet
    stages = killing.STAGES[part::PARTS]
    before = killing.taken_over(project)
    kills = killing.one_round(project, seconds, random.Random(part), stages)
    assert killing.outs(project.root) == expected
    assert [kill.stage for kill in kills] == list(stages)
    # The stages before the last kill, at the least, were there when the last run came to them.
    assert killing.taken_over(project) > before
