"""The folder that `fmbseg label` writes: published whole, and never over what people did in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fmbseg.errors import DataError
from fmbseg.pseudo.merging import Merging
from fmbseg.store import atomic
from fmbseg.store.digest import file_digest
from fmbseg.store.shards import MANIFEST, ShardStore, published_files

WORK = ".fmbseg"


def publish(temporary: Path, out: Path) -> None:
    """Move a sealed folder's files into `out`, the manifest last; files of others stay."""
    before = _listed(out)
    (out / MANIFEST).unlink(missing_ok=True)
    names = atomic.contents(temporary, MANIFEST)
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / name, out / name)
    for name in set(before) - set(names):
        (out / name).unlink(missing_ok=True)
    os.replace(temporary / MANIFEST, out / MANIFEST)


def require_own(out: Path, merging: Merging | None) -> None:
    """Refuse a folder of others, and labels that someone has worked on.

    Args:
        out: the folder; it need not be there.
        merging: corrections; a label map that says what they say is not lost.

    Raises:
        DataError: they would be lost.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / WORK).is_dir():
        raise DataError(f"{out} holds something already: choose an empty folder")
    for name, digest in _listed(out).items():
        path = out / name
        if not path.is_file() or file_digest(path) == digest:
            continue
        if merging is None or not merging.says(path, name):
            raise DataError(
                f"{path} was changed after it was made and would be lost: choose another --out, or "
                "remove it; of a label map that you corrected keep a copy, which `fmbseg "
                "corrections import png` takes over"
            )


def damaged(out: Path) -> bool:
    """Whether a file of a published folder is gone; `require_own` has found none changed."""
    return not all((out / name).is_file() for name in _listed(out))


def _listed(out: Path) -> dict[str, str]:
    """The files that were published, and their sha256."""
    files = published_files(out)
    if files is None:
        raise DataError(f"{out / MANIFEST} is damaged: choose another --out")
    return files


def forget_others(store: ShardStore) -> None:
    """Remove the results of other classes or parameters: those asked for now are published."""
    for other in store.directory.parent.iterdir():
        if other != store.directory:
            shutil.rmtree(other)
