"""`fmbseg table`: the results that are on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def table(
    metrics: Annotated[
        Path, typer.Option("--metrics", metavar="DIR", help="Folder of the results.")
    ] = Path("metrics"),
) -> None:
    """Print the mIoU of every method on every benchmark."""
    from fmbseg.evaluate.table import result_table

    print(result_table(metrics))
