"""`fmbseg report` and `fmbseg figures`: what a run reaches, to be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    Overrides,
    Params,
    WeightsDir,
    completing,
    use_weights,
)
from fmbseg.errors import ConfigError
from fmbseg.figures import FIGURES
from fmbseg.params import project_config


def report(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the page (index.html) and the card.")
    ] = Path("report"),
    overrides: Overrides = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Write one page of this project's results, pictures, figures and times.

    index.html is one file that needs no network, README.md the card of the trained head in the form
    of the Hugging Face hub. What was not made yet is left out; `dvc repro` makes everything, and
    its own copy without times in data/report.
    """
    config = project_config(params, overrides or ())
    from fmbseg.machine.progress import console_progress
    from fmbseg.pipeline.run import workplace
    from fmbseg.report.stage import PAGE, write_report
    from fmbseg.store.paths import Paths

    write_report(workplace(config, Paths(), console_progress()), out, timed=True)
    print(f"{out / PAGE}: open it in a browser")


def figures(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FIGURE]...",
            autocompletion=completing(lambda: FIGURES),
            help=f"{', '.join(FIGURES)}. Default: all.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where they go.")] = Path("figures"),
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Draw the paper's figures of this run, as PNG and PDF."""
    chosen = names or [*FIGURES]
    if unknown := [name for name in chosen if name not in FIGURES]:
        raise ConfigError(f"no figure {', '.join(unknown)}: choose of {', '.join(FIGURES)}")
    use_weights(weights_dir)
    config = project_config(params, overrides or ())
    from fmbseg.figures.stage import draw_figures
    from fmbseg.machine.progress import console_progress
    from fmbseg.pipeline.run import workplace
    from fmbseg.store.paths import Paths

    out.mkdir(parents=True, exist_ok=True)
    draw_figures(workplace(config, Paths(), console_progress()), chosen, out)
    print(f"{out}: {', '.join(f'{name}.png' for name in chosen)}, and the same as PDF")
