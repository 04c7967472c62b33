"""`dvc repro` that says how far it is: `python -m fmbseg.pipeline.repro [OPTION|TARGET]...`.

DVC names each stage when its turn comes, and neither how many there are nor how long they take.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from fmbseg.config import load_config
from fmbseg.machine.progress import LineProgress, Task
from fmbseg.pipeline.run import stage_names

# What DVC prints when a stage's turn has come: it runs until the next one's has, or it is skipped.
_TURN = re.compile(r"^(Running stage|Stage) '[^']+'(:| didn't change| is cached)")


def repro(arguments: Sequence[str], command: Sequence[str]) -> int:
    """Run DVC's command; a line for each stage says how many are done of all, and the ETA.

    Args:
        arguments: options of the command, and targets; without targets: all of dvc.yaml.
        command: `dvc repro`, as a process is started.

    Returns:
        Its exit status.
    """
    whole = all(each.startswith("-") for each in arguments)
    total = len(stage_names(load_config(Path("params.yaml")))) if whole else None
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with LineProgress(sys.stderr, interval=0).task("stages", total) as task:
        follow(process.stdout, task)
        if status := process.wait():
            sys.exit(status)
        task.advance()
    return 0


def follow(lines: Iterable[str], task: Task) -> None:
    """Pass DVC's output on, and report each stage whose successor's turn has come."""
    first = True
    for line in lines:
        if _TURN.match(line):
            if not first:
                task.advance()
            first = False
        print(line, end="", flush=True)


if __name__ == "__main__":
    sys.exit(repro(sys.argv[1:], [sys.executable, "-m", "dvc", "repro"]))
