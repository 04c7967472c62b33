"""Stages by name: found in the table, run, asked for their state or their shards.

A stage with `each_benchmark` is written `evaluate@voc21` for one benchmark, as DVC names it;
without a benchmark it runs all of `evaluate.benchmarks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fmbseg.config import Config
from fmbseg.errors import ConfigError
from fmbseg.machine.progress import Progress, silent_progress
from fmbseg.pipeline.table import STAGES, Stage, Workplace
from fmbseg.store.paths import Paths
from fmbseg.store.shards import ShardedWork, StageReport, StageState
from fmbseg.tracking.performance import measured, remember
from fmbseg.tracking.tracker import Tracker


def find_stage(name: str, config: Config) -> tuple[Stage, tuple[str, ...]]:
    """A stage by its name, and the benchmarks it is to run on (none: it scores none).

    Args:
        name: `detect`, `evaluate` (all benchmarks) or `evaluate@voc21` (one).
        config: whose `evaluate.benchmarks` are looked up.

    Raises:
        ConfigError: no such stage, no such benchmark, or a stage that takes no benchmark.
    """
    base, at, benchmark = name.partition("@")
    if base not in STAGES:
        raise ConfigError(f"unknown stage {base!r}: use one of {', '.join(STAGES)}")
    stage = STAGES[base]
    if stage.each_benchmark and not config.evaluate.benchmarks:
        raise ConfigError(f"{base!r} has nothing to score: evaluate.benchmarks is empty")
    if not at:
        return stage, tuple(config.evaluate.benchmarks)
    if not stage.each_benchmark:
        raise ConfigError(f"stage {base!r} is not run by benchmark: write {base!r} alone")
    if benchmark not in config.evaluate.benchmarks:
        known = ", ".join(config.evaluate.benchmarks) or "none"
        raise ConfigError(
            f"unknown benchmark {benchmark!r}: evaluate.benchmarks in params.yaml has {known}"
        )
    return stage, (benchmark,)


def run_stage(
    name: str,
    config: Config,
    paths: Paths,
    progress: Progress,
    tracker: Tracker | None = None,
) -> StageReport:
    """Run one stage, `evaluate@voc21` form included; what is already there is taken over.

    Raises:
        ConfigError: see `find_stage`.
        FmbsegError: an input or the weights of a model are missing or damaged.
    """
    stage, benchmarks = find_stage(name, config)
    work = Workplace(config, paths, progress, tracker or Tracker(), benchmarks)
    with measured() as performance:
        report = stage.function(work)
    performance.images = report.images
    if report.images:
        remember(paths, report.key, performance)
    return report


def track_stage(name: str, config: Config, paths: Paths, tracker: Tracker) -> None:
    """Log the result of a stage that was found done, as `run_stage` would; computes nothing.

    Its run may be missing: MLflow was away or switched off, or its database is a new one.

    Raises:
        ConfigError: see `find_stage`.
    """
    stage, benchmarks = find_stage(name, config)
    if stage.track is not None:
        stage.track(Workplace(config, paths, silent_progress(), tracker, benchmarks))


def stage_state(name: str, config: Config, paths: Paths, progress: Progress) -> StageState:
    """The content key of what `run_stage` would make now, and whether it is there already.

    Nothing is computed, but images are read to digest them.

    Raises:
        ConfigError, FmbsegError: as `run_stage`.
    """
    stage, benchmarks = find_stage(name, config)
    return stage.state(Workplace(config, paths, progress, Tracker(), benchmarks))


def stage_shards(
    name: str, config: Config, paths: Paths, progress: Progress
) -> ShardedWork[Any] | None:
    """The shards of a stage, to be computed by any process; None where it has none to share out.

    `run_stage` publishes them when they are there. Nothing is computed, but images are digested.

    Raises:
        ConfigError, FmbsegError: as `run_stage`.
    """
    stage, benchmarks = find_stage(name, config)
    if stage.shards is None:
        return None
    return stage.shards(Workplace(config, paths, progress, Tracker(), benchmarks))


def stage_names(config: Config, wanted: Sequence[str] = ()) -> list[str]:
    """Names of single runs in the order of the pipeline, as DVC writes them.

    Args:
        config: whose benchmarks are filled in: `evaluate` becomes `evaluate@voc21` and so on.
        wanted: stages, with or without a benchmark; none: all.

    Raises:
        ConfigError: as `find_stage`.
    """
    chosen = set()
    for name in wanted or STAGES:
        stage, benchmarks = find_stage(name, config)
        each = [f"{stage.name}@{key}" for key in benchmarks]
        chosen.update(each if stage.each_benchmark else [stage.name])
    order = [
        name
        for stage in STAGES.values()
        for name in (
            [f"{stage.name}@{key}" for key in config.evaluate.benchmarks]
            if stage.each_benchmark
            else [stage.name]
        )
    ]
    return [name for name in order if name in chosen]
