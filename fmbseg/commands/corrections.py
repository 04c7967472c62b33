"""`fmbseg corrections`: labels that people have corrected in other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    LabelledWords,
    Overrides,
    Params,
    PictureFolder,
    lenient_config,
)
from fmbseg.errors import ConfigError
from fmbseg.store.paths import Paths

_LABELS, _CORRECTIONS = Paths().label, Paths().corrections

app = typer.Typer(help="Labels that people have corrected.", rich_markup_mode=None)


@app.callback()
def _corrections() -> None:
    """Labels that people have corrected."""


@app.command("import")
def import_(
    format_: Annotated[
        str, typer.Argument(metavar="FORMAT", help="coco, cvat, label-studio or png.")
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="What the tool exported; of png a folder of label maps."
        ),
    ],
    of: Annotated[
        Path,
        typer.Option(metavar="SOURCE", help="The labels that were corrected, see `fmbseg export`."),
    ] = _LABELS,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the corrections are kept.")
    ] = _CORRECTIONS,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who corrected them.")] = None,
    at: Annotated[str | None, typer.Option(metavar="DATE", help="When.")] = None,
    images: PictureFolder = None,
    vocabulary: LabelledWords = None,
    overrides: Overrides = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Take corrected labels over from another tool, all or none.

    A picture in the file is corrected as a whole: pixels in no region are background where the
    classes have one, and have no label elsewhere. A picture's later correction replaces its
    earlier one.
    """
    from fmbseg.corrections import READERS
    from fmbseg.corrections.store import import_corrections
    from fmbseg.corrections.target import Target
    from fmbseg.data.corrections import Correction
    from fmbseg.data.vocabulary import load_vocabulary
    from fmbseg.export.sources import open_source
    from fmbseg.machine.progress import console_progress
    from fmbseg.pipeline.dvc import follow_corrections
    from fmbseg.stage.row import LABEL

    if format_ not in READERS:
        raise ConfigError(f"no format {format_!r}: use one of {', '.join(READERS)}")
    words = None if vocabulary is None else load_vocabulary(vocabulary)
    target = Target(open_source(of, lenient_config(params, overrides), images, words))
    origin = Correction(format_, 0, by, at)
    found = import_corrections(READERS[format_], file, target, out, console_progress(), origin)
    changed = sum(correction.changed > 0 for correction in found.values())
    print(f"{out}: {len(found)} pictures taken over, {changed} of them differ from {of}")
    if follow_corrections(out):
        print(f"next: `dvc add {_CORRECTIONS}` keeps them, `fmbseg run {LABEL}` merges them")
