"""What Prefect costs: stage 1 as a flow beside the plain loop, in one run, as ratios.

    python -m benchmarks.overhead --images 1000

Both process the same scenes from nothing, in processes of their own, with a real Prefect server
running. A machine's speed drifts by more than Prefect costs, so the images are taken in rounds, and
each round runs both, the one that was second first. Time counts from the start of the first stage
to the end of the last, processor time (all threads, of the process that computes) over the same;
peak memory is that of the process. A second pair of flow runs, with few and with many shards, shows
whether memory grows with their number.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.flows.stack import Stack, free_ports
from tests.project import copy_project

STAGES = ("detect", "query", "masks", "label")
# Run in the project's folder: prints seconds, processor seconds and the peak of memory in MB.
# What is imported anyway is imported before the clock starts, in both.
SPENT = """
import json, resource, sys, time
import fmbseg.pseudo.stages
from flows.full import fmbseg
def spent():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
"""
PLAIN = f"""{SPENT}
from fmbseg.config import load_config
from fmbseg.paths import Paths
from fmbseg.progress import console_progress
from fmbseg.stages import run_stage
config = load_config("params.yaml", sys.argv[1:])
start, before = time.monotonic(), spent()[0]
for stage in {STAGES!r}:
    run_stage(stage, config, Paths(), console_progress())
seconds, (after, peak) = time.monotonic() - start, spent()
print(json.dumps([seconds, after - before, peak]))
"""
FLOW = f"""{SPENT}
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
before = spent()[0]
state = fmbseg(stages={[*STAGES]!r}, overrides=sys.argv[1:], record=False, return_state=True)
after, peak = spent()
assert state.is_completed(), state.message
mine = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
with get_client(sync_client=True) as client:
    tasks = client.read_task_runs(flow_run_filter=mine)
begin, end = min(task.start_time for task in tasks), max(task.end_time for task in tasks)
print(json.dumps([(end - begin).total_seconds(), after - before, peak]))
"""


@dataclass(frozen=True)
class Spent:
    """What stage 1 took: wall seconds, processor seconds, peak memory in MB."""

    seconds: float
    processor: float
    peak: float


def measure(project: Stack, code: str, *overrides: str) -> Spent:
    """Stage 1 from nothing."""
    for name in ("data/pseudo", ".fmbseg/shards", ".fmbseg/encodings"):
        shutil.rmtree(project.root / name, ignore_errors=True)
    said = project.run("python", "-c", code, *overrides).splitlines()
    return Spent(*json.loads(next(line for line in said if line.startswith("["))))


def together(rounds: Sequence[Spent]) -> Spent:
    """Times of all rounds added, and the largest peak."""
    return Spent(
        sum(each.seconds for each in rounds),
        sum(each.processor for each in rounds),
        max(each.peak for each in rounds),
    )


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="of all rounds")
    parser.add_argument("--rounds", type=int, default=4, metavar="N")
    parser.add_argument("--shard-size", type=int, default=64, metavar="N")
    parser.add_argument(
        "--few", type=int, default=128, metavar="N", help="images of the second pair"
    )
    given = parser.parse_args()
    images = given.images // given.rounds
    folder = Path(tempfile.mkdtemp(prefix="fmbseg-overhead-"))
    project = Stack(folder / "fmbseg", free_ports(2))
    repository = Path(__file__).parents[1]
    plain: list[Spent] = []
    flow: list[Spent] = []
    try:
        copy_project(repository, project.root)
        # The real parameters, not the tests' small ones.
        shutil.copy(repository / "params.yaml", project.root)
        project.set(r"train: \d+, val: \d+", f"train: {max(images, given.few)}, val: 4")
        project.set(r"\{val: \d+\}", "{val: 4}")
        project.run("fmbseg", "run", "scenes")
        project.stack("start")
        project.environment["PREFECT_API_URL"] = project.api
        project.environment["PREFECT_HOME"] = os.fspath(project.root / ".stack" / "client")
        some = (f"data.limit={images}", f"run.shard_size={given.shard_size}")
        arms = [(PLAIN, plain), (FLOW, flow)]
        for number in range(given.rounds):
            for code, spent in arms:
                spent.append(measure(project, code, *some))
            arms.reverse()
            print(
                f"round {number + 1}: plain loop {plain[-1].seconds:.1f} s, "
                f"Prefect {flow[-1].seconds:.1f} s",
                flush=True,
            )
        few = f"data.limit={given.few}"
        one = measure(project, FLOW, few, f"run.shard_size={given.few}")
        many = measure(project, FLOW, few, "run.shard_size=2")
    finally:
        project.try_run("python", "-m", "flows.stack", "stop")
        shutil.rmtree(folder, ignore_errors=True)
    loop, prefect = together(plain), together(flow)
    print(f"stage 1 on {given.rounds} x {images} images, shards of {given.shard_size}")
    for name, spent in (("plain loop", loop), ("Prefect", prefect)):
        print(
            f"  {name:10}  {spent.seconds:7.1f} s  {spent.processor:7.1f} s of processor time"
            f"  {spent.peak:6.0f} MB"
        )
    print(
        f"  {'ratio':10}  {prefect.seconds / loop.seconds:7.3f}    "
        f"{prefect.processor / loop.processor:7.3f}                      "
        f"{prefect.peak / loop.peak:6.2f}"
    )
    print(
        f"peak memory, {given.few} images in {given.few // 2} shards : in 1 shard = "
        f"{many.peak:.0f} : {one.peak:.0f} MB = {many.peak / one.peak:.2f}"
    )


if __name__ == "__main__":
    main()
