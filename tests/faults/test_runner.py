"""A sample of `python -m tests.faults`, which a person runs as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.faults.hostile import cases
from tests.faults.hostile_pictures import pictures


def test_there_are_enough_hostile_inputs_and_no_two_are_the_same() -> None:
    names = [case.name for case in cases()]
    assert len(names) > 300


def test_pictures_of_every_mode_can_be_made(tmp_path: Path) -> None:
    """Which Pillow writes is its own affair; a sample does not come to all of them."""
    modes = [each for each in pictures() if " of mode " in each[0] or " of a palette " in each[0]]
    assert len(modes) == 13
    for number, (_, file, make) in enumerate(modes):
        make(tmp_path / f"{number}{file}")
        with Image.open(tmp_path / f"{number}{file}") as picture:
            picture.load()


def test_a_sample_finds_nothing_and_is_told(tmp_path: Path, repository: Path) -> None:
    kinds = "kill,race,flip,hostile"  # of limits tests/faults/test_limits.py has some
    command = [sys.executable, "-m", "tests.faults", "--rounds", "3", "--kinds", kinds]
    command += ["--out", str(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "faults.json").read_text(encoding="utf-8"))
    assert list(record) == kinds.split(",")
    assert all(figures["tried"] >= 3 and not figures["problems"] for figures in record.values())
    assert (tmp_path / "faults.md").read_text(encoding="utf-8") in done.stdout
