"""A sample of `python -m tests.faults`, which a person runs as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.faults.hostile import cases


def test_there_are_enough_hostile_inputs_and_no_two_are_the_same() -> None:
    names = [case.name for case in cases()]
    assert len(names) > 300


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
