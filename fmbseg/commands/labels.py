"""`fmbseg labels`: label maps for people to open, out of the packs of a large set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.options import Order
from fmbseg.store.paths import Paths

_LABELS = Paths().label

app = typer.Typer(help="Label maps that lie packed.", rich_markup_mode=None)


@app.callback()
def _labels() -> None:
    """Label maps that lie packed."""


@app.command("unpack")
def unpack(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="An out of the stage label.")
    ] = _LABELS,
    order: Order = None,
) -> None:
    """Write label maps as one PNG each (`run.pack_labels` keeps them in ZIP files).

    A PNG that was changed comes back with `fmbseg corrections import png DIR`.
    """
    from fmbseg.export.sources import listed_ids
    from fmbseg.export.writer import require_free
    from fmbseg.pseudo.packs import unpack_out

    require_free(out, own=False)
    count = unpack_out(source, out, None if order is None else listed_ids(order))
    print(f"{out}: {count} label maps")
