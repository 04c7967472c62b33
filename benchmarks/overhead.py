"""What Prefect costs: stage 1 as a flow beside the plain loop, in one run, as ratios.

    python -m benchmarks.overhead

Both process the same scenes from nothing, in processes and workspaces of their own. A machine's
speed drifts by more than Prefect costs, so the two share the time: one is stopped (SIGSTOP) while
the other runs, a slice each in turn, and only a process's own slices count. Prefect's server and
worker run in the flow's slices: what they take is Prefect's cost.

Time counts from the start of the first stage to the end of the last, processor time (all threads,
of the process that computes) over the whole; peak memory is that of the process. A second pair of
flow runs, with few and with many shards, shows whether memory grows with their number.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.flows.stack import Stack, free_ports
from tests.project import Project, copy_project

STAGES = ("detect", "query", "masks", "label")
# Run in the project's folder: prints when the stages began and ended (seconds since the epoch),
# processor seconds and the peak of memory in MB.
# What is imported anyway is imported before the clock starts, in both.
SPENT = """
import json, resource, sys, time
import fmbseg.pseudo.encodings, fmbseg.pseudo.pipeline, fmbseg.pseudo.stages
from flows.full import fmbseg
def spent():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
"""
PLAIN = f"""{SPENT}
from fmbseg.config import load_config
from fmbseg.store.paths import Paths
from fmbseg.machine.progress import console_progress
from fmbseg.pipeline.run import open_stage, run_stage
config = load_config("params.yaml", sys.argv[1:])
begin, before = time.time(), spent()[0]
for stage in {STAGES!r}:
    run_stage(open_stage(stage, config, Paths(), console_progress()))
end, (after, peak) = time.time(), spent()
print(json.dumps([begin, end, after - before, peak]))
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
print(json.dumps([begin.timestamp(), end.timestamp(), after - before, peak]))
"""


@dataclass(frozen=True)
class Spent:
    """What stage 1 took: wall seconds of its own slices, processor seconds, peak memory in MB."""

    seconds: float
    processor: float
    peak: float


@dataclass
class Arm:
    """A process that computes stage 1 from nothing, and those that must run when it runs.

    It is stopped until `run_for`.
    """

    process: subprocess.Popen[bytes]
    said: Path  # what it prints
    servers: Sequence[int]  # process groups
    slices: list[tuple[float, float]] = field(default_factory=list)

    def run_for(self, seconds: float | None) -> bool:
        """Let it run, to its end if `seconds` is None. Returns whether it has ended."""
        groups = (*self.servers, self.process.pid)
        signal_all(groups, signal.SIGCONT)
        begin = time.time()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            signal_all(groups, signal.SIGSTOP)
        self.slices.append((begin, time.time()))
        return self.process.returncode is not None

    def spent(self) -> Spent:
        """After its end."""
        out = self.said.read_text(encoding="utf-8")
        assert self.process.returncode == 0, out
        begin, end, processor, peak = json.loads(
            next(line for line in out.splitlines() if line.startswith("["))
        )
        own = sum(max(0.0, min(end, until) - max(begin, since)) for since, until in self.slices)
        return Spent(own, processor, peak)


def signal_all(groups: Sequence[int], number: signal.Signals) -> None:
    """Signal process groups; one that has ended needs none."""
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, number)


def start(project: Project, code: str, servers: Sequence[int], *overrides: str) -> Arm:
    """Stage 1 from nothing, stopped as soon as it is started."""
    for name in ("data/pseudo", ".fmbseg/shards", ".fmbseg/encodings"):
        shutil.rmtree(project.root / name, ignore_errors=True)
    said = project.root.with_suffix(".txt")
    with said.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *overrides],
            cwd=project.root,
            env=project.environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    signal_all((process.pid,), signal.SIGSTOP)
    return Arm(process, said, servers)


def measure(project: Project, code: str, *overrides: str) -> Spent:
    """Stage 1 from nothing, with nothing beside it."""
    arm = start(project, code, (), *overrides)
    arm.run_for(None)
    return arm.spent()


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--images", type=int, default=1000, metavar="N")
    parser.add_argument("--shard-size", type=int, default=64, metavar="N")
    parser.add_argument("--slice", type=float, default=15.0, metavar="S", help="seconds in turn")
    parser.add_argument(
        "--few", type=int, default=128, metavar="N", help="images of the second pair"
    )
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fmbseg-overhead-"))
    repository = Path(__file__).parents[1]
    project = Stack(folder / "fmbseg", free_ports(2))
    servers: list[int] = []
    arms: list[Arm] = []
    try:
        copy_project(repository, project.root)
        # The real parameters, not the tests' small ones.
        shutil.copy(repository / "params.yaml", project.root)
        project.set(r"train: \d+, val: \d+", f"train: {max(given.images, given.few)}, val: 4")
        project.set(r"\{val: \d+\}", "{val: 4}")
        project.run("fmbseg", "run", "scenes")
        loop = Project(folder / "loop")
        shutil.copytree(project.root, loop.root)
        project.stack("start")
        servers = [os.getpgid(process) for process in project.processes().values()]
        project.environment["PREFECT_API_URL"] = project.api
        project.environment["PREFECT_HOME"] = os.fspath(project.root / ".stack" / "client")
        some = (f"data.limit={given.images}", f"run.shard_size={given.shard_size}")
        signal_all(servers, signal.SIGSTOP)
        arms = [start(loop, PLAIN, (), *some), start(project, FLOW, servers, *some)]
        running = list(arms)
        while running:
            alone = len(running) == 1
            running = [arm for arm in running if not arm.run_for(None if alone else given.slice)]
        plain, flow = (arm.spent() for arm in arms)
        signal_all(servers, signal.SIGCONT)
        few = f"data.limit={given.few}"
        one = measure(project, FLOW, few, f"run.shard_size={given.few}")
        many = measure(project, FLOW, few, "run.shard_size=2")
    finally:
        signal_all([arm.process.pid for arm in arms if arm.process.poll() is None], signal.SIGKILL)
        signal_all(servers, signal.SIGCONT)
        project.try_run("python", "-m", "flows.stack", "stop")
        shutil.rmtree(folder, ignore_errors=True)
    print(f"stage 1 on {given.images} images, shards of {given.shard_size}")
    for name, spent in (("plain loop", plain), ("Prefect", flow)):
        print(
            f"  {name:10}  {spent.seconds:7.1f} s  {spent.processor:7.1f} s of processor time"
            f"  {spent.peak:6.0f} MB"
        )
    print(
        f"  {'ratio':10}  {flow.seconds / plain.seconds:7.3f}    "
        f"{flow.processor / plain.processor:7.3f}                      "
        f"{flow.peak / plain.peak:6.2f}"
    )
    print(
        f"peak memory, {given.few} images in {given.few // 2} shards : in 1 shard = "
        f"{many.peak:.0f} : {one.peak:.0f} MB = {many.peak / one.peak:.2f}"
    )


if __name__ == "__main__":
    main()
