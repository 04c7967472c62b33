"""`fmbseg evaluate`: one method on one benchmark, wherever it lies."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.options import (
    DEFAULT_CHECKPOINT,
    DEFAULT_PARAMS,
    Checkpoint,
    Overrides,
    Params,
)


class Method(StrEnum):
    """What can be scored."""

    FMBSEG = "fmbseg"
    MASKCLIP = "maskclip"
    PSEUDO = "pseudo"
    ORACLE = "oracle"


def evaluate(
    benchmark: Annotated[str, typer.Option("--benchmark", metavar="NAME", help="Such as voc21.")],
    root: Annotated[Path, typer.Option("--root", metavar="PATH", help="The benchmark's folder.")],
    method: Annotated[Method, typer.Option("--method", help="What is scored.")],
    json: Annotated[Path, typer.Option("--json", metavar="FILE", help="Where the result goes.")],
    split: Annotated[
        str | None, typer.Option("--split", help="Default: the split the benchmark is scored on.")
    ] = None,
    checkpoint: Checkpoint = DEFAULT_CHECKPOINT,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Score the first N images only.")
    ] = None,
    overrides: Overrides = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Score one method on one benchmark; nothing of the pipeline's own results is touched."""
