"""`fmbseg table1` and `fmbseg ablate`: the paper's tables, each by one command."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    Overrides,
    Params,
    WeightsDir,
    completing,
    one_of,
    use_weights,
)
from fmbseg.config import Config, load_config
from fmbseg.errors import ConfigError
from fmbseg.store.paths import Paths
from fmbseg.studies.declared import STUDIES

if TYPE_CHECKING:
    from fmbseg.studies.running import Plan
    from fmbseg.studies.trials import Recipes, Trial

_TABLE_2 = ("coco_stuff", "voc21")

Seeds = Annotated[
    str, typer.Option(metavar="LIST", help="Of the trainings (run.seed), parted by commas.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would run and about how long; compute nothing.")
]


def table1(
    seeds: Seeds = "0,1,2",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE.md",
            help="Folder of table.md, .csv and .tex, or one .md file. Default: metrics/table1.",
        ),
    ] = None,
    dry_run: DryRun = False,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Train the head with each seed, score every benchmark, and show it beside published results.

    Stage 1's labels are those that are there. A run that was killed goes on; results are kept in
    metrics/table1/SEED. data/ and the other results in metrics/ are not touched.
    """
    use_weights(weights_dir)
    config = load_config(params, overrides or ())
    chosen, paths = _seeds(seeds), Paths()
    from fmbseg.evaluate.report import markdown
    from fmbseg.studies.table_1 import table_1, write_table
    from fmbseg.studies.trials import TABLE_1

    recipes = _recipes(paths)
    if not _run(config, recipes, [TABLE_1], chosen, [*config.evaluate.benchmarks], dry_run):
        return
    report = table_1(config, paths, recipes, chosen)
    written = write_table(report, out or paths.table_1)
    print(markdown(report))
    print("written: " + ", ".join(map(str, written)))


def ablate(
    study: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            parser=one_of(STUDIES),
            autocompletion=completing(lambda: STUDIES),
            help=f"{', '.join(STUDIES)}; may be repeated. Default: all.",
        ),
    ] = None,
    seeds: Seeds = "0,1,2",
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"What is scored; may be repeated. Default: {' and '.join(_TABLE_2)}.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the page and its plots. Default: metrics/ablations."
        ),
    ] = None,
    dry_run: DryRun = False,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Train and score the variants of studies with several seeds; one page with tables and plots.

    Variants share what they have in common: with the project, and with each other. A run that was
    killed goes on; results are kept in metrics/ablations/STUDY/VARIANT/SEED and taken over while
    parameters, code and data are the same. data/ and the other results in metrics/ are not touched.
    """
    use_weights(weights_dir)
    config = load_config(params, overrides or ())
    paths = Paths()
    names = tuple(dict.fromkeys(study or STUDIES))
    known = config.evaluate.benchmarks
    scored = benchmark or [name for name in _TABLE_2 if name in known] or [*known]
    recipes = _recipes(paths)
    if not _run(config, recipes, names, _seeds(seeds), [*dict.fromkeys(scored)], dry_run):
        return
    from fmbseg.evaluate.table import aligned
    from fmbseg.studies.page import study_tables, write_page

    for table in study_tables(config, paths, recipes):
        if table.study in names:
            print(f"\n{table.study}: {table.about}")
            print("\n".join(aligned([table.heads, *table.rows])))
    command = ["fmbseg", *sys.argv[1:]]
    written = write_page(config, paths, recipes, out or paths.ablations, command)
    print("\nwritten: " + ", ".join(map(str, written)))


def _recipes(paths: Paths) -> Recipes:
    from fmbseg.machine.progress import console_progress
    from fmbseg.studies.trials import Recipes

    return Recipes(paths, console_progress())


def _run(
    config: Config,
    recipes: Recipes,
    studies: Iterable[str],
    seeds: Sequence[int],
    benchmarks: Sequence[str],
    dry_run: bool,
) -> bool:
    """Run what is missing; False: it was only said what that is."""
    from fmbseg.studies.running import plan, run_trials
    from fmbseg.studies.trials import require_stage_1, trials

    if not benchmarks:
        raise ConfigError("evaluate.benchmarks is empty: name what is to be scored in params.yaml")
    studies = list(studies)
    require_stage_1(config, studies)
    planned = plan(trials(config, recipes.paths, studies, seeds, benchmarks), recipes)
    _say(planned)
    if dry_run:
        for trial, names in planned.missing:
            print(f"  {_name(trial)}: {', '.join(names)}")
        return False
    run_trials(planned, recipes, recipes.progress, _done)
    return True


def _say(planned: Plan) -> None:
    trials = len(planned.missing)
    if not trials:
        print(f"nothing to run: all {planned.count} results are there")
        return
    minutes = max(1, round(planned.seconds / 60))
    basis = "by those that ran here" if planned.timed else "at the demo's size on two cores"
    if planned.seconds == 0:
        print(f"{trials} variants are equal to others whose results are there")
        return
    print(
        f"{trials} trainings to score ({planned.count} results are there), equal ones once: about "
        f"{minutes} min, {basis}",
        flush=True,
    )


def _done(trial: Trial) -> None:
    from fmbseg.evaluate.results import read_result
    from fmbseg.evaluate.table import percent

    results = {
        name: read_result(trial.place / f"{name}.json")["miou"]
        for name in trial.config.evaluate.benchmarks
    }
    shown = ", ".join(f"{name} {percent(miou, 2)}" for name, miou in results.items())
    print(f"{_name(trial)}: {shown}", flush=True)


def _name(trial: Trial) -> str:
    return f"{trial.study}/{trial.variant}, seed {trial.seed}"


def _seeds(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise ConfigError(f"--seeds {text!r}: write numbers from 0 parted by commas, as 0,1,2")
    return found
