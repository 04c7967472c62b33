"""A killed flow goes on where it was: once in every stage, against real servers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.flows import killing

pytestmark = pytest.mark.slow


def test_nothing_is_lost_or_computed_twice(repository: Path) -> None:
    with killing.project(repository) as project:
        expected, seconds = killing.undisturbed(project)
        assert sum(name.endswith(".png") for name in expected) > 24
        kills = killing.one_round(project, seconds, random.Random(0))
        assert killing.outs(project.root) == expected
        assert [kill.stage for kill in kills] == list(killing.STAGES)
        assert sum(kill.finished for kill in kills) > 0
        assert killing.taken_over(project) > 0
