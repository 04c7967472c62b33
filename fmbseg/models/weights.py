"""Where weights lie, what they must be, and how they get into a module: strictly or not at all."""

from __future__ import annotations

import os
import pickle
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fmbseg.digest import file_digest
from fmbseg.errors import WeightsError
from fmbseg.models import tiny
from fmbseg.progress import Progress, silent_progress

WEIGHTS_VARIABLE = "FMBSEG_WEIGHTS"
Library = Literal["open_clip", "segment_anything", "timm"]
_KINDS: dict[str, str] = {
    "open_clip": "CLIP",
    "segment_anything": "SAM",
    "timm": "frozen encoder",
}
_BLOCK = 2**20
# Each reader has its own word for a file it cannot read.
_UNREADABLE = (
    SafetensorError,
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    KeyError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class WeightsRecord:
    """One model of `registry.yaml`, which explains the fields.

    Attributes:
        name: as in params.yaml.
        library: whose classes build it.
        architecture: the library's own name; `tiny` is the JSON record in `fmbseg/models/tiny`.
        activation: `gelu` or `quick_gelu`.
        mean: of the pixels, per RGB channel.
        std: of the pixels, per RGB channel.
        size: side of the square image the model was trained on, pixels.
        file: name of the weights file.
        sha256: of the file, hex; None where it is not pinned.
        licence: SPDX name of the weights' licence.
        source: URL the file comes from, or the folder of its pretraining script.
    """

    name: str
    library: Library
    architecture: str
    activation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    file: str
    sha256: str | None
    licence: str
    source: str


@cache
def registry() -> Mapping[str, WeightsRecord]:
    """All records by name, in the order of `registry.yaml`."""
    raw = yaml.safe_load((Path(__file__).parent / "registry.yaml").read_text(encoding="utf-8"))
    return {
        name: WeightsRecord(
            name=name, **{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
        )
        for name, fields in raw.items()
    }


def weights_record(name: str, library: Library | None = None) -> WeightsRecord:
    """The record of a model.

    Args:
        name: of the model.
        library: the one the caller builds with; another one is an error.

    Raises:
        WeightsError: the name is unknown, or names a model of another kind.
    """
    found = registry().get(name)
    if found is None or (library is not None and found.library != library):
        fitting = [entry.name for entry in registry().values() if library in (None, entry.library)]
        problem = f"unknown model {name!r}"
        if found is not None and library is not None:
            problem = f"{name} is a {_KINDS[found.library]}, where a {_KINDS[library]} is needed"
        raise WeightsError(f"{problem}: choose one of {', '.join(fitting)}")
    return found


def resolve(name: str, weights_dir: Path | str | None = None) -> Path:
    """Path of a model's weights: `weights_dir`, then the package, then the FMBSEG_WEIGHTS folder.

    Raises:
        WeightsError: the name is unknown or the file is in none of them; weights are never
            replaced by random ones.
    """
    record = weights_record(name)
    named = os.environ.get(WEIGHTS_VARIABLE)
    folders = [weights_dir, tiny.FOLDER if record.architecture == "tiny" else None, named or None]
    places = [Path(folder) / record.file for folder in folders if folder is not None]
    for path in places:
        if path.is_file():
            return path
    if places:
        advice = f"put it there (from {record.source})"
    else:
        advice = f"get it from {record.source} and set {WEIGHTS_VARIABLE} to its folder"
    missing = f" is not in {' or '.join(str(path.parent) for path in places)}" if places else ""
    raise WeightsError(f"weights of {name}: {record.file}{missing or ' is not here'}: {advice}")


def verify(name: str, weights_dir: Path | str | None = None) -> str:
    """Digest of a model's weights, checked against the record.

    Returns:
        sha256 of the file, hex.

    Raises:
        WeightsError: the file is missing, or is not the pinned one.
    """
    record = weights_record(name)
    path = resolve(name, weights_dir)
    status = path.stat()
    digest = _digest(path, status.st_size, status.st_mtime_ns)
    if record.sha256 not in (None, digest):
        raise WeightsError(
            f"{path} is damaged or another file (sha256 {digest[:12]}..., {name} has "
            f"{str(record.sha256)[:12]}...): get it again from {record.source}"
        )
    return digest


def weights_digest(name: str, weights_dir: Path | str | None = None) -> str:
    """What content keys hold for a model: `verify`'s digest, computed once a process and file."""
    return verify(name, weights_dir)


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    return file_digest(path)


def pull(
    name: str, weights_dir: Path | str | None = None, progress: Progress | None = None
) -> Path:
    """Fetch a model's weights into `weights_dir` or the FMBSEG_WEIGHTS folder, and check them.

    A file that is there and verifies is left alone.

    Returns:
        Path of the file.

    Raises:
        WeightsError: no folder is named, the source cannot be reached, or what came is damaged.
    """
    record = weights_record(name)
    with suppress(WeightsError):
        verify(name, weights_dir)
        return resolve(name, weights_dir)
    folder = weights_dir or os.environ.get(WEIGHTS_VARIABLE)
    if "://" not in record.source:
        raise WeightsError(f"{name} comes with the package ({record.file}): install it again")
    if not folder:
        raise WeightsError(f"nowhere to put {record.file}: set {WEIGHTS_VARIABLE} to a folder")
    path = Path(folder) / record.file
    partial = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(record, partial, progress or silent_progress())
    except OSError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"cannot fetch {record.source} ({reason}): try again later") from error
    if record.sha256 not in (None, file_digest(partial)):
        partial.unlink()
        raise WeightsError(f"what {record.source} gave is not the pinned file: try again later")
    partial.replace(path)
    return path


def _download(record: WeightsRecord, path: Path, progress: Progress) -> None:
    with urllib.request.urlopen(record.source, timeout=60) as response, path.open("wb") as stream:
        length = response.headers.get("Content-Length")
        total = -(-int(length) // _BLOCK) if length else None
        with progress.task(f"{record.file} (MiB)", total) as task:
            while block := response.read(_BLOCK):
                stream.write(block)
                task.advance(1)


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file by name: safetensors, a pickled state dict, or TorchScript.

    Pickles are read with `weights_only`, so a file cannot run code.

    Raises:
        WeightsError: the file is cut off, damaged or holds no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_torchscript(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch would rather have other archives
                archive = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return dict(archive.state_dict())
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise WeightsError(
            f"{path} is cut off, damaged or holds more than tensors: get it again"
        ) from error
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
) -> None:
    """Fill a module from a record's file; every tensor must fit, and none may be left over.

    Args:
        module: of the record's architecture; values are converted to its dtypes.
        record: of the model.
        weights_dir: looked into first.
        unused: names the published file holds besides the module's tensors.

    Raises:
        WeightsError: the file is missing, damaged or of another architecture.
    """
    path = resolve(record.name, weights_dir)
    state = {key: value for key, value in read_state(path).items() if key not in unused}
    wanted = module.state_dict()
    problems = [f"no {key}" for key in wanted if key not in state]
    problems += [f"unknown {key}" for key in state if key not in wanted]
    problems += [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise WeightsError(
            f"{path} does not fit {record.name} ({problems[0]}{more}): "
            f"use the file from {record.source}"
        )
    module.load_state_dict(state)
