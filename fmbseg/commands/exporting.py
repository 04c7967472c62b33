"""`--export FORMAT` of the commands that make labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmbseg.errors import ConfigError

if TYPE_CHECKING:
    from fmbseg.export.source import Source

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files of its machine."""

Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--export",
        metavar="FORMAT",
        help="Also write DIR/FORMAT, as `fmbseg export` does; several are parted by commas.",
    ),
]


def parse_formats(given: Sequence[str] | None) -> tuple[str, ...]:
    """Formats that a call names, each once.

    Raises:
        ConfigError: one is unknown; said before any work is done.
    """
    parts = (part.strip() for each in given or () for part in each.split(","))
    named = tuple(dict.fromkeys(part for part in parts if part))
    if named:
        known_format(*named)
    return named


def known_format(*names: str) -> None:
    """Raise ConfigError for a format that there is not."""
    from fmbseg.export import FORMATS

    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"no format {name!r}: use one of {', '.join(FORMATS)}")


def refuse_changed(out: Path, formats: Sequence[str]) -> None:
    """Raise DataError, before any work, for exports of earlier calls that somebody has changed."""
    from fmbseg.export.writer import require_free

    for name in formats:
        require_free(out / name, own=True)


def export_beside(source: Source, out: Path, formats: Sequence[str]) -> None:
    """Write labelled pictures in some formats, each into a folder that bears its name."""
    from fmbseg.export import FORMATS
    from fmbseg.export.writer import Options, export
    from fmbseg.machine.progress import console_progress

    for name in formats:
        place = out / name
        options = Options(source.classes, url=local_url(place))
        export(FORMATS[name], source, place, console_progress(), options, own=True)
        print(f"{place}: {len(source.images)} pictures as {name}")


def local_url(place: Path) -> str:
    """How Label Studio finds the pictures of an export in the folder that it serves."""
    return f"{LOCAL_FILES}{place.absolute().name}/images/"
