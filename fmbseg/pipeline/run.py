"""Stages by name: found in the table, opened, run, listed.

A row with `each_benchmark` is written `evaluate@voc21` for one benchmark, as DVC names it; without
a benchmark it runs all of `evaluate.benchmarks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fmbseg.config import Config
from fmbseg.errors import ConfigError
from fmbseg.machine.progress import Progress
from fmbseg.pipeline.table import ROWS
from fmbseg.stage.depends import flat_params
from fmbseg.stage.row import Row
from fmbseg.stage.stage import Stage, stage_class
from fmbseg.stage.tracker import Tracker
from fmbseg.stage.workplace import Workplace
from fmbseg.store.atomic import remove_abandoned
from fmbseg.store.paths import Paths
from fmbseg.store.shards import Attempt, StageReport, once
from fmbseg.tracking.performance import measured, remember


def open_stage(
    name: str,
    config: Config,
    paths: Paths,
    progress: Progress,
    tracker: Tracker | None = None,
    attempt: Attempt = once,
) -> Stage:
    """A stage at work in a workspace; nothing is read or computed before it is asked to.

    Args:
        name: `detect`, `evaluate` (all benchmarks) or `evaluate@voc21` (one).
        config: all sections.
        paths: the workspace.
        progress: where progress is shown.
        tracker: what its run is logged with; None: nothing is logged.
        attempt: called with the work of each shard.

    Raises:
        ConfigError: no such stage, no such benchmark, or a stage that takes no benchmark.
    """
    row, benchmarks = find_row(name, config)
    work = Workplace(ROWS, config, paths, progress, tracker or Tracker(), benchmarks, attempt)
    stage: Stage = stage_class(row)(row, work)
    return stage


def workplace(config: Config, paths: Paths, progress: Progress) -> Workplace:
    """A workspace with all its stages, for what looks at several of their results."""
    return Workplace(ROWS, config, paths, progress)


def run_stage(stage: Stage) -> StageReport:
    """Run one stage and log it; what is already there is taken over. Raises as `Stage.run`.

    What killed processes left behind is swept before.
    """
    for folder in stage.work.paths.written():
        remove_abandoned(folder)
    with measured() as performance:
        report = stage.run()
    performance.images = report.images
    if report.images:
        remember(stage.work.paths, report.key, performance)
    stage.track()
    return report


def find_row(name: str, config: Config) -> tuple[Row, tuple[str, ...]]:
    """A row by its stage's name, and the benchmarks it is to run on; raises as `open_stage`."""
    base, at, benchmark = name.partition("@")
    if base not in ROWS:
        raise ConfigError(f"unknown stage {base!r}: use one of {', '.join(ROWS)}")
    row, known = ROWS[base], tuple(config.evaluate.benchmarks)
    if row.each_benchmark and not known:
        raise ConfigError(f"{base!r} has nothing to score: evaluate.benchmarks is empty")
    if not at:
        return row, known
    if not row.each_benchmark:
        raise ConfigError(f"stage {base!r} is not run by benchmark: write {base!r} alone")
    if benchmark not in known:
        raise ConfigError(
            f"unknown benchmark {benchmark!r}: evaluate.benchmarks in params.yaml has "
            f"{', '.join(known)}"
        )
    return row, (benchmark,)


def stage_names(config: Config, wanted: Sequence[str] = ()) -> list[str]:
    """Names of single runs in the order of the pipeline, as DVC writes them.

    Args:
        config: whose benchmarks are filled in: `evaluate` becomes `evaluate@voc21` and so on.
        wanted: stages, with or without a benchmark; none: all that no one has to ask for.

    Raises:
        ConfigError: as `open_stage`.
    """
    names = wanted or [name for name, row in ROWS.items() if not row.on_request]
    chosen = {single for name in names for single in _single(*find_row(name, config))}
    every = tuple(config.evaluate.benchmarks)
    return [name for row in ROWS.values() for name in _single(row, every) if name in chosen]


def leading_to(names: Iterable[str]) -> list[str]:
    """Stages, with or without a benchmark, and all whose outs they read: rows, in their order."""
    wanted = {name.partition("@")[0] for name in names}
    # Rows stand in the order of the pipeline: those that read a row come after it.
    for row in reversed([*ROWS.values()]):
        if row.name in wanted:
            wanted.update(row.inputs)
    return [name for name in ROWS if name in wanted]


def makes_the_same(names: Iterable[str], config: Config, other: Config) -> bool:
    """Whether two configurations mean the same results of these stages and of all before them."""
    names = list(names)
    read = (earlier for name in names for earlier in ROWS[name.partition("@")[0]].inputs)
    params: set[str] = set()
    for name in [*names, *leading_to(read)]:
        base, at, benchmark = name.partition("@")
        if at and benchmark not in other.evaluate.benchmarks:
            return False
        key = f".{benchmark}" if benchmark else ""
        params.update(param.replace(".${key}", key) for param in ROWS[base].depends.params)
    return flat_params(config, params) == flat_params(other, params)


def _single(row: Row, benchmarks: Sequence[str]) -> list[str]:
    return [f"{row.name}@{key}" for key in benchmarks] if row.each_benchmark else [row.name]
