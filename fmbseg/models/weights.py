"""Where weights lie, what they must be, and how they get into a module: strictly or not at all."""

from __future__ import annotations

import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fmbseg.errors import WeightsError
from fmbseg.machine.progress import Progress, silent_progress
from fmbseg.models import tiny
from fmbseg.models.download import NotFoundError, fetch, stated_digest
from fmbseg.models.records import (
    Library,
    WeightsRecord,
    published_as,
    registry,
    weights_record,
)
from fmbseg.store.digest import file_digest, json_digest

__all__ = [
    "OWN_VARIABLE",
    "WEIGHTS_VARIABLE",
    "Library",
    "WeightsRecord",
    "load_weights",
    "model_digest",
    "pinned_digest",
    "pull",
    "read_state",
    "registry",
    "resolve",
    "verify",
    "weights_digest",
    "weights_record",
]

WEIGHTS_VARIABLE = "FMBSEG_WEIGHTS"
OWN_VARIABLE = "FMBSEG_OWN_WEIGHTS"
StateDict = dict[str, Tensor]
_log = logging.getLogger(__name__)
# What a record says of the model itself; the other fields say where its file is from.
_DEFINING = ("library", "architecture", "activation", "mean", "std", "size", "layer")


def resolve(name: str, weights_dir: Path | str | None = None) -> Path:
    """Path of a model's weights: `weights_dir`, then the FMBSEG_WEIGHTS folder, then the package.

    Raises:
        WeightsError: the name is unknown or the file is in none of them; weights are never
            replaced by random ones.
    """
    record = weights_record(name)
    named = (weights_dir, os.environ.get(WEIGHTS_VARIABLE))
    places = [Path(folder).expanduser() for folder in named if folder]
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


def pull(
    name: str, weights_dir: Path | str | None = None, progress: Progress | None = None
) -> Path:
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
    folder = weights_dir or os.environ.get(WEIGHTS_VARIABLE)
    with suppress(WeightsError):
        verify(name, weights_dir)
        return resolve(name, weights_dir)
    if record.architecture == "tiny":
        own = Path(folder or tiny.FOLDER).expanduser() / record.file
        if own.parent != tiny.FOLDER and own.is_file():
            raise WeightsError(f"{own} is in the place of the package's file: move it away")
        raise WeightsError(f"{name} comes with the package ({record.file}): install it again")
    if not folder:
        raise WeightsError(
            f"nowhere to put {record.file}: give --weights-dir DIR or set {WEIGHTS_VARIABLE}"
        )
    places, progress = (
        [Path(folder).expanduser() / file for file in record.files],
        progress or silent_progress(),
    )
    for path in places:
        if path.is_file() and os.environ.get(OWN_VARIABLE) == "1":
            raise WeightsError(
                f"{path} is not the published file and may be your own ({OWN_VARIABLE}=1): move "
                "it elsewhere to fetch the published one"
            )
    try:
        fetch(record.source, places[0], record.sha256, progress)
        return places[0]
    except NotFoundError:
        if record.spare is None:
            raise
    fetch(record.spare, places[1], None, progress)
    return places[1]


def read_state(path: Path, *, torchscript: bool = False, nested: str | None = None) -> StateDict:
    """Tensors of a weights file by name: safetensors, a pickled state dict, or TorchScript.

    Pickles are read with `weights_only`, so a file cannot run code.

    Args:
        path: of the file.
        torchscript: whether a TorchScript archive is read; torch's reader of these does not promise
            to run nothing, so only for a file whose sha256 is a published one's.
        nested: where a pickle of a whole training holds the state dict; a pickle that has nothing
            there is a state dict itself.

    Raises:
        WeightsError: the file is cut off, damaged, a TorchScript archive that is not to be read, or
            holds no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_torchscript(path):
            if not torchscript:
                raise WeightsError(
                    f"{path} is a TorchScript archive and not the published file: such archives "
                    "can hold code; get the published file, or save the state dict alone"
                )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch would rather have other archives
                archive = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return dict(archive.state_dict())
        state = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except MemoryError as error:
        raise WeightsError(f"{path} does not fit into this machine's memory") from error
    except Exception as error:  # each reader has its own words for a file it cannot read
        if "allocate memory" in str(error):  # torch has no class of its own for it
            raise WeightsError(f"{path} does not fit into this machine's memory") from error
        raise WeightsError(
            f"{path} is cut off, damaged or holds more than tensors: get it again"
        ) from error
    inner = state.get(nested) if isinstance(state, dict) and nested is not None else None
    if isinstance(inner, dict):
        # Trained on several GPUs, where torch wraps the model in a module of its own.
        state = {str(key).removeprefix("module."): value for key, value in inner.items()}
    if not isinstance(state, dict) or not all(isinstance(item, Tensor) for item in state.values()):
        raise WeightsError(f"{path} is not a state dict of tensors: get the published file")
    return state


def _is_torchscript(path: Path) -> bool:
    # OpenAI publishes CLIP as TorchScript archives, which torch.load refuses.
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def load_weights(
    module: nn.Module,
    record: WeightsRecord,
    weights_dir: Path | str | None = None,
    *,
    unused: Sequence[str] = (),
    nested: str | None = None,
    convert: Callable[[StateDict], StateDict] | None = None,
) -> None:
    """Fill a module from a record's file; every tensor must fit, and none may be left over.

    Two models may have tensors of equal names and shapes and yet differ, as CLIPs with and without
    QuickGELU do. So the file's sha256 counts too: another than the published one is refused unless
    FMBSEG_OWN_WEIGHTS is 1. The tiny models, which are made to be pretrained anew, get a warning.

    Args:
        module: of the record's architecture; values are converted to its dtypes.
        record: of the model.
        weights_dir: looked into first.
        unused: names the published file holds besides the module's tensors.
        nested: where a whole training, published in the weights' place, holds them.
        convert: renames the tensors of a file in its author's own layout, and is asked only if
            they have not the module's names; raises ValueError for a file it does not know.

    Raises:
        WeightsError: the file is missing, damaged, of another architecture or not the published
            one.
    """
    path = resolve(record.name, weights_dir)
    digest = weights_digest(record.name, weights_dir)
    if digest != record.sha256 and (owner := published_as(digest)) is not None:
        raise WeightsError(
            f"{path} is {owner}'s file: name that model, or put {record.source} in its place"
        )
    state = read_state(path, torchscript=digest == record.sha256, nested=nested)
    wanted = module.state_dict()
    problems = _misfits(state, wanted, unused)
    if problems and convert is not None and state.keys() != wanted.keys():
        with suppress(ValueError):
            state = convert(state)
            problems = _misfits(state, wanted, unused)
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise WeightsError(
            f"{path} does not fit {record.name} ({problems[0]}{more}): "
            f"use the file from {record.source}"
        )
    _require_published(record, path, digest)
    module.load_state_dict({key: state[key] for key in wanted})


def _require_published(record: WeightsRecord, path: Path, digest: str) -> None:
    pinned = pinned_digest(record, path)
    if pinned is None:
        _say_unchecked(path, record.name)
    elif not digest.startswith(pinned):
        problem = f"{path} is not the published {path.name} (sha256 {digest[:12]}...)"
        if record.architecture != "tiny" and os.environ.get(OWN_VARIABLE) != "1":
            raise WeightsError(
                f"{problem}: get it from {record.source}, "
                f"or set {OWN_VARIABLE}=1 to use own weights"
            )
        _log.warning("%s: own weights are used as they are", problem)


@cache
def _say_missing(folder: Path) -> None:
    # Perhaps a mistyped name: the package's weights should not pass for those that were meant.
    _log.warning("%s is no folder: the tiny models' weights are the package's", folder)


@cache
def _say_unchecked(path: Path, name: str) -> None:
    # Once a process: pipelines load a model more than once.
    _log.warning(
        "%s: no sha256 is known for %s; only names and shapes of the tensors were checked",
        path,
        name,
    )


def _misfits(state: StateDict, wanted: Mapping[str, Tensor], unused: Sequence[str]) -> list[str]:
    problems = [f"no {key}" for key in wanted if key not in state]
    problems += [f"unknown {key}" for key in state if key not in wanted and key not in unused]
    return problems + [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
