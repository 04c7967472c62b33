"""The end of a run: DVC is told which stages are done, so that `dvc repro` runs none of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.common import RETRY_DELAYS, RETRY_JITTER


class RecordError(RuntimeError):
    """`dvc commit` failed; most often another DVC command holds its lock."""


def is_dvc_project(root: Path) -> bool:
    """Whether there is something to record in; a container may hold the code alone."""
    return (root / ".dvc").is_dir() and (root / "dvc.yaml").is_file()


@task(
    name="record",
    task_run_name="record",
    description="dvc commit: the results and what they were made from, into dvc.lock",
    cache_policy=NO_CACHE,
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS,
    retry_jitter_factor=RETRY_JITTER,
)
def record_stages(names: Sequence[str], root: Path) -> None:
    """Write the present results of stages into dvc.lock and DVC's cache, running nothing.

    Args:
        names: as in dvc.yaml, `evaluate@voc21`.
        root: the workspace.

    Raises:
        RecordError: DVC refused; what it said.
    """
    # A commit takes more than a second for each stage, to ask about all of them takes three.
    changed = json.loads(_dvc(root, "status", "--json", *names))
    if stale := [name for name in names if name in changed]:
        _dvc(root, "commit", "--force", "--quiet", *stale)


def _dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RecordError(" ".join((done.stderr or done.stdout).split()))
    return done.stdout
