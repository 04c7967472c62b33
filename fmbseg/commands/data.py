"""`fmbseg data`: make data sets."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Data sets.", rich_markup_mode=None)


class Layout(StrEnum):
    """Layouts scenes can be written in."""

    VOC2012 = "voc2012"
    COCO_STUFF164K = "coco_stuff164k"


@app.callback()
def _data() -> None:
    """Data sets."""


@app.command("scenes")
def scenes(
    layout: Annotated[Layout, typer.Option("--layout", help="Benchmark layout on disk.")],
    images: Annotated[
        int,
        typer.Option(
            "--images",
            min=1,
            help="N training images; a quarter as many validation images (at least 1) come on top.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The layout's folder is made in it.")
    ],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same bytes.")] = 0,
) -> None:
    """Draw synthetic scenes with exact ground truth.

    Written are N train and max(1, N // 4) val scenes; the evaluation split is val.
    """
