"""Trials run in a workspace of their own, which shares the project's caches and nothing else.

What is computed lies under content keys in `.fmbseg`, so variants share stage 1 and features with
the project and with each other, and a run that was killed goes on where it was. `data/` and the
other results in `metrics/` are never written to.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

from fmbseg.errors import StoreError
from fmbseg.evaluate.results import Result, read_result, write_result
from fmbseg.machine.progress import Progress
from fmbseg.pipeline.run import open_stage, run_stage
from fmbseg.stage.stage import Stage
from fmbseg.store.atomic import replace_directory, temporary_directory
from fmbseg.store.paths import Paths
from fmbseg.store.shards import is_published
from fmbseg.studies.trials import METHOD, RECIPE, Recipes, Trial
from fmbseg.tracking.performance import Performance, recall, remember

# Of a training (52 s) and two scores (4 s each) at the demo's size on two cores that have nothing
# else to do; until one has been timed here.
_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """What of some trials is to be done.

    Attributes:
        missing: each trial that lacks results, and the benchmarks it lacks.
        done: results that are there, by recipe: an equal variant of another study takes them.
        count: how many results are there.
        seconds: an estimate of all that is missing.
        timed: whether the estimate is from trials that ran here.
    """

    missing: Sequence[tuple[Trial, tuple[str, ...]]]
    done: Mapping[str, Result]
    count: int
    seconds: float
    timed: bool


def plan(found: Sequence[Trial], recipes: Recipes) -> Plan:
    """Look at what is kept; nothing is computed. Raises as `Recipes.of`."""
    missing: list[tuple[Trial, tuple[str, ...]]] = []
    done: dict[str, Result] = {}
    new: dict[str, str] = {}  # of what has to be computed, by the recipe it is timed under
    times, count = [], 0
    for trial in found:
        named = {name: recipes.of(trial, name) for name in trial.config.evaluate.benchmarks}
        kept = {name: recipes.kept(trial, name) for name in named}
        there = {named[name]: result for name, result in kept.items() if result is not None}
        done |= there
        count += len(there)
        if lacking := tuple(name for name, result in kept.items() if result is None):
            missing.append((trial, lacking))
            new |= {named[name]: next(iter(named.values())) for name in lacking}
        if (known := recall(recipes.paths, next(iter(named.values())))) is not None:
            times.append(known.seconds)
    each = fmean(times) if times else _SECONDS
    trainings = {first for recipe, first in new.items() if recipe not in done}
    return Plan(missing, done, count, each * len(trainings), bool(times))


def run_trials(
    planned: Plan, recipes: Recipes, progress: Progress, said: Callable[[Trial], None]
) -> None:
    """Make what is missing, trial by trial; each result is kept as soon as it is there.

    Args:
        planned: see `plan`.
        recipes: the same.
        progress: of the trials, and of the stages within each.
        said: called when a trial is done.

    Raises:
        StoreError: another process is at it in this project.
        FmbsegError: as the stages.
    """
    if not planned.missing:
        return
    project = recipes.paths
    made = dict(planned.done)
    with (
        _alone(project),
        progress.task("trials", len(planned.missing)) as task,
    ):
        scratch = Paths(project.study_workspace)
        for trial, names in planned.missing:
            start = time.monotonic()
            lacking = {name: recipes.of(trial, name) for name in names}
            if not made.keys() >= set(lacking.values()):
                _train(trial, project, scratch, progress)
                for name, recipe in lacking.items():
                    _run(f"evaluate@{name}", trial, project, scratch, progress)
                    result = read_result(scratch.metrics / METHOD / f"{name}.json")
                    made[recipe] = result | {RECIPE: recipe}
                first = recipes.of(trial, next(iter(trial.config.evaluate.benchmarks)))
                remember(project, first, Performance(seconds=time.monotonic() - start))
            for name, recipe in lacking.items():
                write_result(made[recipe], trial.place / f"{name}.json")
            task.advance()
            said(trial)
    shutil.rmtree(project.study_workspace, ignore_errors=True)


def _train(trial: Trial, project: Paths, scratch: Paths, progress: Progress) -> None:
    for name in trial.stages:
        _run(name, trial, project, scratch, progress)


def _run(name: str, trial: Trial, project: Paths, scratch: Paths, progress: Progress) -> None:
    stage = open_stage(name, trial.config, scratch, progress)
    if not stage.row.each_benchmark:
        _adopt(stage, project)
    run_stage(stage)


def _adopt(stage: Stage, project: Paths) -> None:
    """Take the project's own out over, where it is the one that is wanted: it may be all there is.

    After `dvc pull` there are no shards to publish it from.
    """
    own = project.root / stage.row.outputs[0]
    if stage.published or not is_published(own, stage.key):
        return
    place = stage.place
    place.parent.mkdir(parents=True, exist_ok=True)
    with temporary_directory(place.parent, place.name) as temporary:
        shutil.copytree(own, temporary, dirs_exist_ok=True)
        replace_directory(temporary, place)


@contextmanager
def _alone(project: Paths) -> Iterator[None]:
    """The scratch workspace for this process alone."""
    folder = project.study_workspace
    folder.mkdir(parents=True, exist_ok=True)
    # Beside it: the workspace itself is removed at the end.
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreError(
            f"{folder.parent}: another `fmbseg ablate` or `fmbseg table1` is at work in this "
            "project: wait until it has ended"
        ) from error
    except OSError:  # the file system has no locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)
