"""`fmbseg compare`: runs that were made, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.options import DEFAULT_PARAMS, Params, lenient_config


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="The beginning of a run's id, a part of its name, or a DVC experiment; the first "
            "is what the others are held against. Default: all runs.",
        ),
    ] = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Print a line a run: mIoU of each benchmark, and the parameters that were changed.

    All runs that are in MLflow (tracking.uri), however they were started: dvc repro, dvc exp run,
    fmbseg run or Prefect.
    """
    from fmbseg.tracking.compare import chosen_runs, comparison, scored_runs

    found = scored_runs(lenient_config(params, None).tracking, Path("."))
    print(comparison(chosen_runs(found, runs or ())))
