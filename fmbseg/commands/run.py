"""`fmbseg run`: one stage of the pipeline, or all."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    ExperimentName,
    Overrides,
    Params,
    WeightsDir,
    completing,
    use_weights,
    with_experiment,
)
from fmbseg.config import Config, load_config
from fmbseg.errors import ConfigError
from fmbseg.params import project_config
from fmbseg.pipeline.table import ROWS

_ALL = "all"
_EACH = [f"`{row.name}@voc21`" for row in ROWS.values() if row.each_benchmark]


def run(
    stage: Annotated[
        str,
        typer.Argument(
            metavar="STAGE",
            autocompletion=completing(lambda: (*ROWS, _ALL)),
            help=f"{', '.join(ROWS)}; {' and '.join(_EACH)} score one benchmark; {_ALL}: one after "
            "another.",
        ),
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="As run.strict: a picture that cannot be read ends it.")
    ] = False,
    experiment: ExperimentName = None,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Run one stage of the pipeline, or all; what is already computed is taken over.

    `dvc repro` calls this for every stage that is out of date. With PREFECT_API_URL in the
    environment the stage runs as a flow of that server, else as it is. Pictures that cannot be read
    are left out and named, with exit code 0; --strict ends the stage instead.
    """
    use_weights(weights_dir)
    overrides = with_experiment(experiment, params, overrides)
    overrides += ["run.strict=true"] if strict else []
    config = project_config(params, overrides)
    from fmbseg.pipeline.run import find_row, makes_the_same, stage_names

    if stage == _ALL:
        stages = stage_names(config)
    else:
        find_row(stage, config)
        stages = [stage]
    recorded = load_config(DEFAULT_PARAMS if DEFAULT_PARAMS.is_file() else params)
    if not makes_the_same(stages, config, recorded):
        print(
            f"fmbseg: what `run {stage}` makes now is not the result of {DEFAULT_PARAMS}: the "
            "configuration differs; `dvc repro` will make it again",
            file=sys.stderr,
        )
    for each in stages:
        for report in _run(each, config, overrides, params):
            done = f"{report['computed']} computed, {report['taken_over']} taken over"
            print(f"{report['stage']}: {done} (key {report['key'][:12]})", flush=True)
            for line in report.get("summary", ()):
                print(f"  {line}")


def _run(
    stage: str, config: Config, overrides: Sequence[str], params: Path
) -> list[dict[str, Any]]:
    if os.environ.get("PREFECT_API_URL"):
        if not Path("flows").is_dir():
            raise ConfigError(
                f"PREFECT_API_URL is set, and {Path.cwd()} has no folder flows/: run inside the "
                "project, or unset the variable"
            )
        # The flows are the project's: nothing is installed under so general a name.
        sys.path.insert(0, os.getcwd())
        from flows.stages import run_through_prefect

        return run_through_prefect(stage, overrides, params)
    from fmbseg.machine.progress import console_progress
    from fmbseg.pipeline.run import open_stage, run_stage
    from fmbseg.store.paths import Paths
    from fmbseg.tracking.open import open_tracker

    paths = Paths()
    tracker = open_tracker(config, paths.root)
    opened = open_stage(stage, config, paths, console_progress(), tracker)
    report = run_stage(opened)
    return [asdict(report) | {"stage": stage, "summary": opened.summary()}]
