"""Kill the flow's process in the middle of stages, start again, and compare with a quiet run.

    python -m tests.flows.killing --rounds 5

A round makes everything anew: in each stage the process is killed once, at a random moment, and the
deployment started again. What is published at the end must be that of a run nobody disturbed, byte
for byte, and no shard that was finished at a kill may be computed again.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from prefect.client.schemas.objects import FlowRun

from fmbseg.pipeline.table import ROWS
from tests.flows.stack import Stack, free_ports
from tests.project import copy_project

STAGES = ("scenes", "detect", "query", "masks", "label", "features", "align")
STAGES += ("evaluate@voc21", "baselines@voc21", "oracle", "evaluate_oracle@voc21", "plots")
STAGES += ("figures", "report")
_MADE = ("data", "metrics", ".fmbseg")
_WAIT_SECONDS = 900.0
# A name and the identity of what bears it: a folder that was made again is another one.
Shards = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        stage: what ran.
        after: seconds from the stage's start.
        finished: shards that had been finished since the last kill.
    """

    stage: str
    after: float
    finished: int


@contextmanager
def project(repository: Path, images: int = 24) -> Iterator[Stack]:
    """A scratch project of so many images in shards of four, with its own servers."""
    folder = Path(tempfile.mkdtemp(prefix="fmbseg-kill-"))
    made = Stack(folder / "fmbseg", free_ports(2))
    copy_project(repository, made.root)
    made.set(r"train: \d+, val: \d+", f"train: {images}, val: {images}")
    made.commit("more images")
    try:
        with made.running():
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def undisturbed(project: Stack) -> tuple[dict[str, bytes], dict[str, float]]:
    """The outs of a quiet run, and how long each task ran, in seconds."""
    state, message, _ = project.deployment("full", "record=false")
    assert state == "Completed", message
    tasks = project.tasks(project.newest_run())
    return outs(project.root), {task.name: task.total_run_time.total_seconds() for task in tasks}


def one_round(
    project: Stack,
    seconds: dict[str, float],
    random_: random.Random,
    stages: Sequence[str] = STAGES,
) -> list[Kill]:
    """Make everything anew with a kill in every stage, or in some; the last run is let through.

    A quick stage may end before it is killed. It is then made again, and killed sooner.
    """
    for name in _MADE:
        shutil.rmtree(project.root / name, ignore_errors=True)
    kills = []
    for stage in stages:
        for share in (0.6, 0.3, 0.15, 0.0):
            before = _shards(project.root)
            after = random_.uniform(0.0, share * seconds[stage])
            running = _kill_in(project, stage, after)
            finished = _shards(project.root)
            _kept(before, finished)
            if running == stage:
                kills.append(Kill(stage, after, len(finished) - len(before)))
                break
            _unmake(project.root, stage)
        else:
            raise AssertionError(f"{stage} always ended before it was killed")
    before = _shards(project.root)
    state, message, _ = project.deployment("full", "record=false")
    assert state == "Completed", message
    _kept(before, _shards(project.root))
    return kills


def outs(root: Path) -> dict[str, bytes]:
    """Everything published, byte for byte."""
    files = [file for name in ("data", "metrics") for file in (root / name).rglob("*")]
    return {str(file.relative_to(root)): file.read_bytes() for file in files if file.is_file()}


def taken_over(project: Stack) -> int:
    """Shards that runs have found finished, by what each said at its end of all its stages."""
    said = "\n".join(project.logs())
    found = re.findall(r"^\d+ stages: \d+ computed, (\d+) taken over$", said, re.M)
    return sum(map(int, found))


def _kill_in(project: Stack, stage: str, after: float) -> str | None:
    """Kill the flow so long after the stage's start; None: the stage was done before."""
    project.run("prefect", "deployment", "run", "fmbseg/full", "-p", "record=false")
    run = project.newest_run()
    end = time.monotonic() + _WAIT_SECONDS
    while (stage, "Running") not in (found := _states(project, run)):
        if (stage, "Cached") in found or (stage, "Completed") in found:
            break
        assert time.monotonic() < end, f"{stage} did not start"
        state = project.state(run)
        assert not state.is_final(), f"the run ended before {stage}: {state.name}, {state.message}"
        time.sleep(0.3)
    else:
        time.sleep(after)
    running = [name for name, state in _states(project, run) if state == "Running"]
    for child in psutil.Process(project.processes()["worker"]).children(recursive=True):
        child.kill()
    while not project.state(run).is_final():
        assert time.monotonic() < end, "the worker has not noticed the kill"
        time.sleep(0.5)
    return running[0] if running else None


def _unmake(root: Path, stage: str) -> None:
    """Remove what a stage has made, finished shards included."""
    base, _, benchmark = stage.partition("@")
    made = [root / out.replace("${key}", benchmark) for out in ROWS[base].outputs]
    store = root / ".fmbseg"
    made += [store / base, store / "shards" / base]
    if ROWS[base].methods:
        made += (store / "shards").glob("evaluate-*")
    for path in made:
        if path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


def _states(project: Stack, run: FlowRun) -> set[tuple[str, str | None]]:
    return {(task.name, task.state_name) for task in project.tasks(run)}


def _shards(root: Path) -> Shards:
    store = root / ".fmbseg"
    found = [path for path in store.rglob("[0-9]" * 6) if path.is_dir()]
    return {
        str(path.relative_to(store)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in found
    }


def _kept(before: Shards, after: Shards) -> None:
    again = [name for name, identity in before.items() if after.get(name) != identity]
    assert not again, f"finished shards were made again: {again}"


def main() -> None:
    """Rounds of kills; ends with an error where something was lost or computed twice."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="kills of each stage")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    random_ = random.Random(given.seed)
    with project(Path(__file__).parents[2]) as made:
        expected, seconds = undisturbed(made)
        print(f"undisturbed: {len(expected)} files, {sum(seconds.values()):.0f} s of stages")
        for number in range(1, given.rounds + 1):
            for kill in one_round(made, seconds, random_):
                print(
                    f"round {number}: {kill.stage} killed {kill.after:.1f} s after its start, "
                    f"{kill.finished} shards finished meanwhile"
                )
            found = outs(made.root)
            names = sorted(found.keys() | expected.keys())
            differing = [name for name in names if found.get(name) != expected.get(name)]
            if differing:
                sys.exit(f"round {number}: other outs than undisturbed: {differing[:5]}")
            print(f"round {number}: all {len(expected)} files as undisturbed")


if __name__ == "__main__":
    main()
