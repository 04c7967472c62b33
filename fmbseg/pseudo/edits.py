"""Label maps that someone has edited where they were published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fmbseg.data.images import read_values
from fmbseg.data.labels import DEEP_UNLABELLED
from fmbseg.errors import DataError
from fmbseg.store.digest import file_digest
from fmbseg.store.shards import published_files


def require_no_lost_edits(place: Path, kept: Callable[[Path, str], bool]) -> None:
    """Refuse to write over label maps that someone has edited where they were published.

    A file that is no label map any more is damaged, and made again.

    Args:
        place: a published folder with `labels/`; it need not be there.
        kept: whether what a file says, which is so named below the folder, is not lost.

    Raises:
        DataError: there are some; the first one is named.
    """
    edited = []
    for name, digest in (published_files(place) or {}).items():
        path = place / name
        of_labels = name.startswith("labels/") and path.suffix == ".png" and path.is_file()
        if not of_labels or file_digest(path) == digest:
            continue
        if edited_label(path) is not None and not kept(path, name):
            edited.append(path)
    if edited:
        raise DataError(
            f"{len(edited)} label maps were changed by hand and would be lost, the first is "
            f"{edited[0]}: copy them to a folder and `fmbseg corrections import png` it, or remove "
            "them"
        )


def edited_label(path: Path) -> npt.NDArray[np.uint16] | None:
    """The values [H, W] of the label map in a file; None: it is none."""
    try:
        return read_values(path, DEEP_UNLABELLED)
    except DataError:
        return None
