"""`fmbseg export`: labels in the formats of other tools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.exporting import LOCAL_FILES, known_format, local_url
from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    Groups,
    LabelledWords,
    Order,
    Overrides,
    Params,
    PictureFolder,
    lenient_config,
)
from fmbseg.errors import VocabularyError


def export(
    format_: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT", help="coco, yolo-seg, voc, cvat, label-studio, mmseg or hf."
        ),
    ],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="data/pseudo/label, what `fmbseg label` or `predict` wrote, or label PNGs.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    images: PictureFolder = None,
    vocabulary: LabelledWords = None,
    groups: Groups = None,
    stuff: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help='Such as "sky, grass": one region a picture, not one an island.'
        ),
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="Link to pictures in place of copying them.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX",
            help=f"For Label Studio: before a picture's name. Default: {LOCAL_FILES}DIR/images/.",
        ),
    ] = None,
    order: Order = None,
    overrides: Overrides = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Write labels in the format of another tool.

    The folder appears when all is written. Each island of a class is a region of its own; pixels
    without a label stay without one.
    """
    from fmbseg.data.vocabulary import load_vocabulary
    from fmbseg.data.vocabulary.grouping import load_grouping
    from fmbseg.export import FORMATS
    from fmbseg.export.sources import in_order, open_source
    from fmbseg.export.writer import Options
    from fmbseg.export.writer import export as write
    from fmbseg.machine.progress import console_progress

    known_format(format_)
    config = lenient_config(params, overrides)
    words = None if vocabulary is None else load_vocabulary(vocabulary)
    found = open_source(source, config, images, words)
    if order is not None:
        found = in_order(found, order)
    if groups is not None:
        found = replace(found, grouping=load_grouping(groups, found.classes.names))
    options = Options(
        found.written,
        stuff=_indices(stuff, found.written.names),
        link=link,
        url=local_url(out) if url is None else url,
    )
    write(FORMATS[format_], found, out, console_progress(), options)
    count = f"{len(found.images)} pictures, {len(found.written.names)} classes"
    print(f"{out}: {count} as {format_}")


def _indices(given: str | None, names: tuple[str, ...]) -> frozenset[int]:
    wanted = [name.strip() for name in (given or "").split(",") if name.strip()]
    for name in wanted:
        if name not in names:
            raise VocabularyError(f"--stuff: {name!r} is none of the {len(names)} classes")
    return frozenset(names.index(name) for name in wanted)
