"""Options that several subcommands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fmbseg.config import Config, load_config
from fmbseg.paths import Paths

DEFAULT_PARAMS = Path("params.yaml")
DEFAULT_CHECKPOINT = Paths().align

Params = Annotated[Path, typer.Option("--params", metavar="FILE", help="Parameters of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change one parameter for this call; may be repeated.",
    ),
]
Checkpoint = Annotated[
    Path,
    typer.Option("--checkpoint", metavar="DIR", help="Folder of the trained alignment head."),
]
WeightsDir = Annotated[
    Path | None,
    typer.Option(
        "--weights-dir",
        metavar="DIR",
        help="Folder of the models' weights, in place of the one in FMBSEG_WEIGHTS.",
    ),
]


def use_weights(folder: Path | None) -> None:
    """Look for weights in a folder as if FMBSEG_WEIGHTS named it, in processes started here too."""
    if folder is not None:
        os.environ["FMBSEG_WEIGHTS"] = str(folder.expanduser().absolute())


def lenient_config(params: Path, overrides: list[str] | None) -> Config:
    """The configuration of a call that also works outside a project: then the defaults.

    Raises:
        ConfigError: a named file is missing, or a parameter is unknown or out of range.
    """
    outside = params == DEFAULT_PARAMS and not params.exists()
    return load_config(None if outside else params, overrides or ())
