"""Make reads the Makefile, and each target that it lists has commands."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_knows_the_commands_of_each_target(repository: Path) -> None:
    def make(*arguments: str) -> str:
        done = subprocess.run(
            ["make", *arguments], cwd=repository, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    targets = re.findall(r"(?m)^  make (\S+) ", make("help"))
    assert {"demo", "test", "labels-demo", "test-turn"} <= {*targets}
    for target in targets:
        assert make("--dry-run", target).strip(), target
