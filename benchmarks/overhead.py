"""What Prefect costs: stage 1 as a flow beside the plain loop, in one run, as ratios.

    python -m benchmarks.overhead --images 1000

Both process the same scenes from nothing, in processes of their own, with a real Prefect server
running. Time counts from the start of the first stage to the end of the last; peak memory is that
of the process that computes. A second pair of flow runs, with few and with many shards, shows
whether memory grows with their number.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

from tests.flows.stack import Stack, free_ports
from tests.project import copy_project

STAGES = ("detect", "query", "masks", "label")
# Run in the project's folder: prints seconds and the peak of resident memory in MB.
PLAIN = f"""
import json, resource, sys, time
from fmbseg.config import load_config
from fmbseg.paths import Paths
from fmbseg.progress import console_progress
from fmbseg.stages import run_stage
config = load_config("params.yaml", sys.argv[1:])
start = time.monotonic()
for stage in {STAGES!r}:
    run_stage(stage, config, Paths(), console_progress())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.monotonic() - start, peak]))
"""
FLOW = f"""
import json, resource, sys
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from flows.full import fmbseg
state = fmbseg(stages={[*STAGES]!r}, overrides=sys.argv[1:], record=False, return_state=True)
assert state.is_completed(), state.message
mine = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
with get_client(sync_client=True) as client:
    tasks = client.read_task_runs(flow_run_filter=mine)
begin, end = min(task.start_time for task in tasks), max(task.end_time for task in tasks)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([(end - begin).total_seconds(), peak]))
"""


def measure(project: Stack, code: str, *overrides: str) -> tuple[float, float]:
    """Seconds and peak memory (MB) of stage 1 from nothing."""
    for name in ("data/pseudo", ".fmbseg/shards", ".fmbseg/encodings"):
        shutil.rmtree(project.root / name, ignore_errors=True)
    said = project.run("python", "-c", code, *overrides).splitlines()
    seconds, peak = json.loads(next(line for line in said if line.startswith("[")))
    return float(seconds), float(peak)


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--images", type=int, default=1000, metavar="N")
    parser.add_argument("--shard-size", type=int, default=256, metavar="N")
    parser.add_argument(
        "--few", type=int, default=128, metavar="N", help="images of the second pair"
    )
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fmbseg-overhead-"))
    project = Stack(folder / "fmbseg", free_ports(2))
    repository = Path(__file__).parents[1]
    try:
        copy_project(repository, project.root)
        for name in ("params.yaml",):  # the real parameters, not the tests' small ones
            shutil.copy(repository / name, project.root)
        project.set(r"train: \d+, val: \d+", f"train: {given.images}, val: 4")
        project.set(r"\{val: \d+\}", "{val: 4}")
        project.run("fmbseg", "run", "scenes")
        project.stack("start")
        project.environment["PREFECT_API_URL"] = project.api
        project.environment["PREFECT_HOME"] = os.fspath(project.root / ".stack" / "client")
        shards = f"run.shard_size={given.shard_size}"
        plain = measure(project, PLAIN, shards)
        flow = measure(project, FLOW, shards)
        few = f"data.limit={given.few}"
        one = measure(project, FLOW, few, f"run.shard_size={given.few}")
        many = measure(project, FLOW, few, "run.shard_size=2")
    finally:
        project.try_run("python", "-m", "flows.stack", "stop")
        shutil.rmtree(folder, ignore_errors=True)
    print(f"stage 1 on {given.images} images, shards of {given.shard_size}")
    print(f"  plain loop  {plain[0]:7.1f} s  {plain[1]:6.0f} MB")
    print(f"  Prefect     {flow[0]:7.1f} s  {flow[1]:6.0f} MB")
    print(f"  ratio       {flow[0] / plain[0]:7.3f}    {flow[1] / plain[1]:6.2f}")
    print(
        f"peak memory, {given.few} images in {given.few // 2} shards : in 1 shard = "
        f"{many[1]:.0f} : {one[1]:.0f} MB = {many[1] / one[1]:.2f}"
    )


if __name__ == "__main__":
    main()
