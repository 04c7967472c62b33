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
            metavar="N",
            help="Training images; a quarter as many, at least 1, validation images come on top.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="The data set's root, the later --root DIR."),
    ],
    seed: Annotated[int, typer.Option("--seed", min=0, max=99, help="Same seed, same bytes.")] = 0,
) -> None:
    """Draw synthetic scenes with exact ground truth.

    Written are N images of the split train (train2017) and max(1, N // 4) of val (val2017).
    """
    from fmbseg.data.scene_layouts import write_scenes
    from fmbseg.data.scenes import scene_seed
    from fmbseg.progress import console_progress

    train, val = images, max(1, images // 4)
    scene_seed("training", images, seed)  # out of range: before any folder is made
    _refuse_other_content(out, train + val)
    write_scenes(layout.value, out, train=train, val=val, seed=seed, progress=console_progress())
    print(f"{out}: {train} training and {val} validation scenes")


def _refuse_other_content(root: Path, images: int) -> None:
    """A folder may be empty, or hold a part of the very scenes that are asked for."""
    from fmbseg.errors import DataError

    if not root.is_dir() or not any(root.iterdir()):
        return
    if not (root / "scenes.json").is_file():
        raise DataError(f"{root} holds something else already: choose an empty folder")
    there = sum(1 for _ in root.rglob("*.jpg"))
    if there > images:
        raise DataError(f"{root} holds {there} scenes, more than {images}: choose an empty folder")
