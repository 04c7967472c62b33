"""Where weights lie, whose they are and how they get there; imports no torch.

`fmbseg.models.loading` brings them into a module.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from fmbseg.errors import WeightsError
from fmbseg.models import tiny
from fmbseg.models.download import NotFoundError, fetch, stated_digest
from fmbseg.models.records import WeightsRecord, weights_record
from fmbseg.store.digest import file_digest, json_digest

WEIGHTS_VARIABLE = "FMBSEG_WEIGHTS"
OWN_VARIABLE = "FMBSEG_OWN_WEIGHTS"
_log = logging.getLogger(__name__)
# What a record says of the model itself; the other fields say where its file is from.
_DEFINING = (
    *("library", "implementation", "architecture", "activation", "mean", "std", "size", "layers"),
)


def resolve(name: str, weights_dir: Path | str | None = None) -> Path:
    """Path of a model's weights: `weights_dir`, then the FMBSEG_WEIGHTS folder, then the package.

    Raises:
        WeightsError: the name is unknown or the file is in none of them; weights are never
            replaced by random ones.
    """
    record = weights_record(name)
    places = _named_folders(weights_dir)
    if record.architecture == "tiny":
        for folder in places:
            if not folder.is_dir():
                _say_missing(folder)
        places.append(tiny.FOLDER)
    for folder in places:
        for file in record.files:
            if (folder / file).is_file():
                return folder / file
    if places:
        advice = f"put it there (from {record.origin}), or give another folder with --weights-dir"
    else:
        advice = (
            f"get it from {record.origin} and name its folder with --weights-dir or in "
            f"{WEIGHTS_VARIABLE}"
        )
    missing = f" is not in {' or '.join(str(folder) for folder in places)}" if places else ""
    raise WeightsError(f"weights of {name}: {record.file}{missing or ' is not here'}: {advice}")


def _named_folders(weights_dir: Path | str | None) -> list[Path]:
    """The folders a user has named: `weights_dir`, then that of FMBSEG_WEIGHTS."""
    named = (weights_dir, os.environ.get(WEIGHTS_VARIABLE))
    return [Path(folder).expanduser() for folder in named if folder]


@cache
def _say_missing(folder: Path) -> None:
    # Perhaps a mistyped name: the package's weights should not pass for those that were meant.
    _log.warning("%s is no folder: the tiny models' weights are the package's", folder)


def verify(name: str, weights_dir: Path | str | None = None) -> str:
    """Digest of a model's weights, checked against the published file's.

    Stricter than loading, which can be told to use own weights in a published model's place.

    Returns:
        sha256 of the file, hex. Where nobody has stated one (`pinned_digest` is None) it is that
        of the file as it is, unchecked.

    Raises:
        WeightsError: the file is missing, or is not the published one.
    """
    record = weights_record(name)
    path = resolve(name, weights_dir)
    digest, pinned = weights_digest(name, weights_dir), pinned_digest(record, path)
    if pinned is not None and not digest.startswith(pinned):
        advice = f"get it again from {record.origin}"
        if record.architecture == "tiny" and path.parent != tiny.FOLDER:
            advice = "if it is not your own, move it away: the package has one"
        raise WeightsError(
            f"{path} is damaged or another file (sha256 {digest[:12]}..., {record.name} has "
            f"{pinned[:12]}...): {advice}"
        )
    return digest


def pinned_digest(record: WeightsRecord, path: Path) -> str | None:
    """The sha256 that a model's file ought to begin with, hex; None: nobody has stated one.

    It is the record's, or what the hub stated when the file was fetched.
    """
    if record.sha256 is not None:
        return record.sha256
    try:
        return stated_digest(path).read_text(encoding="utf-8").split()[0]
    except (OSError, ValueError, IndexError):
        return None


def weights_digest(name: str, weights_dir: Path | str | None = None) -> str:
    """The sha256 of a model's weights as they are.

    Own weights in a published model's place make results of their own. Computed once a process and
    file.

    Raises:
        WeightsError: the name is unknown or the file is missing.
    """
    path = resolve(name, weights_dir)
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


def model_digest(name: str, weights_dir: Path | str | None = None) -> str:
    """The sha256 of a model's weights and of its record: what content keys hold.

    One file makes other results where the record says another activation, normalisation or layer.

    Raises:
        WeightsError: the name is unknown or the file is missing.
    """
    record = weights_record(name)
    defining = {field: getattr(record, field) for field in _DEFINING}
    return json_digest({**defining, "weights": weights_digest(name, weights_dir)})


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    return file_digest(path)


def pull(name: str, weights_dir: Path | str | None = None) -> Path:
    """Fetch a model's weights into `weights_dir` or the FMBSEG_WEIGHTS folder, and check them.

    A file that is there and verifies is left alone; one that does not is replaced, unless own
    weights are allowed (FMBSEG_OWN_WEIGHTS). A fetch that was cut off goes on.

    Returns:
        Path of the file.

    Raises:
        WeightsError: no folder is named, own weights are in the place, the source cannot be
            reached, or what came is damaged.
    """
    record = weights_record(name)
    folders = _named_folders(weights_dir)
    with suppress(WeightsError):
        verify(name, weights_dir)
        return resolve(name, weights_dir)
    if record.architecture == "tiny":
        for own in (folder / record.file for folder in folders if folder != tiny.FOLDER):
            if own.is_file():
                raise WeightsError(f"{own} is in the place of the package's file: move it away")
        raise WeightsError(f"{name} comes with the package ({record.file}): install it again")
    if not folders:
        raise WeightsError(
            f"nowhere to put {record.file}: give --weights-dir DIR or set {WEIGHTS_VARIABLE}"
        )
    places = [folders[0] / file for file in record.files]
    for path in places:
        if path.is_file() and os.environ.get(OWN_VARIABLE) == "1":
            raise WeightsError(
                f"{path} is not the published file and may be your own ({OWN_VARIABLE}=1): move "
                "it elsewhere to fetch the published one"
            )
    try:
        fetch(record.source, places[0], record.sha256, record.megabytes)
        return places[0]
    except NotFoundError:
        if record.spare is None:
            raise
    fetch(record.spare, places[1], None)
    return places[1]
