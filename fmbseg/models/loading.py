"""How weights get into a module: strictly or not at all."""

from __future__ import annotations

import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fmbseg.errors import WeightsError
from fmbseg.models.records import WeightsRecord, published_as
from fmbseg.models.weights import OWN_VARIABLE, pinned_digest, resolve, weights_digest

StateDict = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)
_log = logging.getLogger(__name__)


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
    except Exception as error:  # each reader has its own words for a file it cannot read
        # torch has no class of its own for it
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
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


def load_module(
    record: WeightsRecord,
    build: Callable[[], Module],
    weights_dir: Path | str | None = None,
    *,
    unused: Sequence[str] = (),
    nested: str | None = None,
    convert: Callable[[nn.Module, StateDict], StateDict] | None = None,
) -> Module:
    """Build a module and fill it from a file; every tensor must fit, and none may be left over.

    Two models may have tensors of equal names and shapes and yet differ, as CLIPs with and without
    QuickGELU do. So the file's sha256 counts too: another than the published one is refused unless
    FMBSEG_OWN_WEIGHTS is 1. The tiny models, which are made to be pretrained anew, get a warning.

    Args:
        record: of the model.
        build: makes a module of its architecture; values are converted to its dtypes.
        weights_dir: looked into first.
        unused: names the published file holds besides the module's tensors.
        nested: where a whole training, published in the weights' place, holds them.
        convert: renames the tensors of a file in its author's own layout for the module, and is
            asked only if they have not the module's names; raises ValueError for a file it does not
            know.

    Raises:
        WeightsError: the file is missing, damaged, of another architecture or not the published
            one, or a value is NaN or infinite.
    """
    path = resolve(record.name, weights_dir)  # before the slow building
    with torch.random.fork_rng(devices=()):  # the draws of random weights leave no trace
        module = build()
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
            state = convert(module, state)
            problems = _misfits(state, wanted, unused)
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise WeightsError(
            f"{path} does not fit {record.name} ({problems[0]}{more}): "
            f"use the file from {record.source}"
        )
    _require_published(record, path, digest)
    _require_finite({key: state[key] for key in wanted}, path)
    module.load_state_dict({key: state[key] for key in wanted})
    return module


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


def _require_finite(state: StateDict, path: Path) -> None:
    for key, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(
                f"{path} is damaged ({key} holds NaN or infinity): get it again, or train it anew"
            )


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
