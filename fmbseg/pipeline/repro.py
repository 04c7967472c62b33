"""`dvc repro` in lanes, and how far it is: `python -m fmbseg.pipeline.repro --help`.

DVC runs one stage after the other, and one stage seldom keeps all cores at work. What DVC offers is
several `dvc repro` beside each other; here it is decided which of them runs which stage, and when.
What they start finds torch imported (`pipeline/ready.py`).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fmbseg.config import Config, load_config
from fmbseg.errors import ConfigError, FmbsegError, one_line
from fmbseg.machine.progress import LineProgress
from fmbseg.pipeline.ready import Ready
from fmbseg.pipeline.run import stage_names
from fmbseg.pipeline.table import ROWS
from fmbseg.stage.row import BENCHMARK, IMAGES, TRUTH
from fmbseg.store.paths import Paths

# DVC's lock is held while outs are stored: another lane waits for it.
_DVC = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item")
_RUNS = re.compile(r"Running stage '")
# The advice that each `dvc repro` ends with: of many that is much.
_ADVICE = re.compile(
    r"To track the changes with git|\tgit add |To enable auto staging|\tdvc config core.autostage"
    r"|Use `dvc push`|Data and pipelines are up to date|$"
)


def needs(config: Config, wanted: Sequence[str] = ()) -> dict[str, set[str]]:
    """Stages, and those that each waits for.

    Args:
        config: whose benchmarks are filled in.
        wanted: stages, with or without a benchmark, to be made with all that they read; none: all
            that are in dvc.yaml.

    Returns:
        Names as DVC writes them, in the order of the pipeline -> the stages whose outs it reads.

    Raises:
        ConfigError: no such stage, none of dvc.yaml, or no such benchmark.
    """
    every = stage_names(config)
    reads = {name: _read(name, config) for name in every}
    before = {
        name: {other for other in every if other.partition("@")[0] in read}
        for name, read in reads.items()
    }
    names = set(stage_names(config, wanted))
    if peers := sorted(names - before.keys()):
        raise ConfigError(f"{peers[0]!r} is in no dvc.yaml: use `fmbseg run {peers[0]}`")
    while missing := set().union(*(before[name] for name in names)) - names:
        names |= missing
    return {name: before[name] for name in every if name in names}


def same_pictures(config: Config, stages: Iterable[str]) -> dict[str, object]:
    """Of stages that score one benchmark: the row and the pictures, which other benchmarks share.

    Encodings of pictures are kept, so the second of two such stages finds those of the first.
    """
    found: dict[str, object] = {}
    for name in stages:
        row, _, benchmark = name.partition("@")
        if benchmark:
            entry = config.evaluate.benchmarks[benchmark]
            found[name] = (row, entry.root, entry.split)
    return found


def _read(name: str, config: Config) -> set[str]:
    """Rows whose outs a stage reads."""
    base, _, benchmark = name.partition("@")
    inputs = {*ROWS[base].inputs}
    roots = [config.data.root] if inputs & {IMAGES, TRUTH} else []
    roots += [config.evaluate.benchmarks[benchmark].root] if BENCHMARK in inputs else []
    drawn = any(Path(root).is_relative_to(Paths().scenes) for root in roots)
    return inputs & ROWS.keys() | ({"scenes"} if drawn else set())


@dataclass
class Repro:
    """`dvc repro`, a process for each stage.

    Attributes:
        command: what the stage's name, and `--force` where it must run, are appended to.
        force_downstream: run all that reads the out of a stage that ran, as DVC's option does.
        ready: started by the first stage that runs, which does not wait for it; None: every stage
            imports for itself.
        ran: the stages that ran; others were up to date.
    """

    command: Sequence[str] = _DVC
    force_downstream: bool = False
    ready: Ready | None = None
    ran: set[str] = field(default_factory=set)
    _printing: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, stage: str, before: set[str], *, alone: bool) -> int:
        """Run one stage, pass on what it says line by line, and return its exit status.

        Args:
            stage: as DVC names it.
            before: what it reads.
            alone: whether it has the terminal for itself, and so its bars.
        """
        force = ["--force"] if self.force_downstream and before & self.ran else []
        process = subprocess.Popen(
            [*self.command, *force, stage],
            stdout=subprocess.PIPE,
            stderr=None if alone else subprocess.STDOUT,
            text=True,
            env=os.environ | (self.ready.place if self.ready else {}),
        )
        assert process.stdout is not None
        for line in process.stdout:
            if _RUNS.match(line):
                self.ran.add(stage)
                if self.ready:
                    self.ready.start()
            if not _ADVICE.match(line):
                with self._printing:
                    print(line, end="", flush=True)
        return process.wait()


def in_lanes(
    lanes: int,
    stages: Mapping[str, set[str]],
    work: Callable[[str, set[str]], int],
    shared: Mapping[str, object] | None = None,
) -> int:
    """Run each stage when those it waits for are done; after each, how many are done, and the ETA.

    Of several that could begin the first is the one that the longest chain of others waits for, and
    one of all benchmarks comes before those of one: it takes longer, and nothing should be left at
    the end that keeps one lane at work alone.

    After a failure nothing is begun any more; what is at work beside it comes to its end.

    Args:
        lanes: how many run at once.
        stages: in the order of the pipeline, in which lanes take them where nothing else decides;
            see `needs`.
        work: runs one of them, given what it waits for; its exit status.
        shared: of some stages, equal for those that would each compute what the later one of them
            finds: they are not beside each other where another could be.

    Returns:
        0, or the exit status of the first that failed.
    """
    chain = _chains(stages)
    shared = shared or {}
    order = sorted(stages, key=lambda name: (-chain[name], "@" in name))
    left, done = {name: stages[name] for name in order}, set[str]()
    running: dict[Future[int], str] = {}
    progress = LineProgress(sys.stderr, interval=0)
    with ThreadPoolExecutor(lanes) as pool, progress.task("stages", len(stages)) as task:
        while left or running:
            while len(running) < lanes and (name := _next(left, done, running.values(), shared)):
                running[pool.submit(work, name, left.pop(name))] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done.add(running.pop(future))
                if status := future.result():
                    sys.exit(status)
                task.advance()
    return 0


def _next(
    left: Mapping[str, set[str]],
    done: set[str],
    running: Iterable[str],
    shared: Mapping[str, object],
) -> str | None:
    """The first stage of those left that can begin, if there is one."""
    ready = [name for name, before in left.items() if before <= done]
    beside = {shared[name] for name in running if name in shared}
    apart = (name for name in ready if shared.get(name) not in beside)
    return next(apart, ready[0] if ready else None)


def _chains(stages: Mapping[str, set[str]]) -> dict[str, int]:
    """How many stages must run one after the other from each stage on, itself included."""
    found: dict[str, int] = {}
    for name in reversed([*stages]):
        waiting = (found[other] for other, before in stages.items() if name in before)
        found[name] = 1 + max(waiting, default=0)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run stages of the project in the current folder; a mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fmbseg.pipeline.repro", description="`dvc repro`, stages beside each other."
    )
    parser.add_argument("stages", nargs="*", help="made with all that they read (default: all)")
    parser.add_argument("--lanes", type=int, default=1, help="stages at once (default: 1)")
    parser.add_argument("--force-downstream", action="store_true", help="as of `dvc repro`")
    asked = parser.parse_args(arguments)
    lanes = max(1, asked.lanes)
    try:
        config = load_config(Path("params.yaml"))
        stages = needs(config, asked.stages)
        with Ready() as ready:
            repro = Repro(force_downstream=asked.force_downstream, ready=ready)
            work = partial(repro, alone=lanes == 1)
            return in_lanes(lanes, stages, work, same_pictures(config, stages))
    except FmbsegError as error:
        print(f"fmbseg: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
