"""Weights of timm's encoders in their authors' own layouts, as timm's own reader takes them.

timm's readers rename, split and join tensors, and some bend weights of another size to fit: patch
embeddings and position embeddings are resampled, blocks that are too many left out. A checkpoint of
another architecture could so pass for the one that was named. Here timm first reads a file of the
same names and shapes in which each tensor holds one number of its own. From where these numbers
arrive one sees what timm does with the real tensors.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fmbseg.models.build import build_encoder
from fmbseg.models.records import WeightsRecord
from fmbseg.models.timm_features import patch_features, small_picture

_timm_log = logging.getLogger("timm.models._builder")
_FIRST = 1000  # the first tensor's number; as they are initialised, weights stay far below
_PREFIX_TOKENS = 8  # the most class and register tokens whose places a file may hold besides
StateDict = dict[str, Tensor]


def as_timm_reads(record: WeightsRecord, module: nn.Module, state: StateDict) -> StateDict:
    """The tensors of `module` by its own names, from a file in its author's layout.

    Args:
        record: of the encoder.
        module: the encoder, with weights as they are initialised.
        state: the file's tensors by its author's names.

    Raises:
        ValueError: timm does not know the layout, or would bend weights of another architecture to
            fit, or would leave tensors that features depend on as they were initialised.
    """
    # An empty state means "none given" to timm: it would fetch one.
    if record.architecture == "tiny" or not state:
        raise ValueError("not in an author's layout")
    left = _require_unbent(state, _read_by_timm(record, _numbered(state)))
    if left and (lost := left - _without_effect(module)):
        raise ValueError(f"{min(lost)} is not in the file")
    return _read_by_timm(record, state)


def _numbered(state: StateDict) -> StateDict:
    """`state` with tensor k's values all `_FIRST` + k; counters, which are integers, stay."""
    return {
        key: torch.full(value.shape, float(_FIRST + k)) if value.is_floating_point() else value
        for k, (key, value) in enumerate(state.items())
    }


def _require_unbent(state: StateDict, numbered: StateDict) -> set[str]:
    """Names of the module's tensors that nothing of the file went into.

    Args:
        state: the file's tensors.
        numbered: the module's, after timm has read the file's numbers in place of its values.

    Raises:
        ValueError: a tensor was resampled or cut, or blocks of the network were left out.
    """
    names = list(state)
    used: Counter[str] = Counter()  # elements of the module that are an element of that tensor
    left = set()
    for key, value in numbered.items():
        if not value.is_floating_point():
            continue
        filled = computed = False
        for number, count in _counts(value):
            if number < _FIRST - 0.5:
                continue  # as it was initialised
            filled = True
            k = round(number) - _FIRST
            if k < len(names) and abs(number - _FIRST - k) < 0.1:
                used[names[k]] += count
            else:
                computed = True
        if computed and not any(value.shape == other.shape for other in state.values()):
            raise ValueError(f"{key} would be resampled")
        if not filled:
            left.add(key)
    for name, count in used.items():
        # Some authors store the class token's place among the positions; some tensors are shared.
        width = state[name].shape[-1] if state[name].ndim else 1
        places, rest = divmod(state[name].numel() - count, width)
        own_places = "pos" in name and not rest and 0 < places <= _PREFIX_TOKENS
        if count % max(state[name].numel(), 1) and not own_places:
            raise ValueError(f"{name} would be cut or resampled")
    kinds = {_kind(name) for name in used}
    for name in state:
        if name not in used and _kind(name) != name and _kind(name) in kinds:
            raise ValueError(f"{name} would be left out")
    return left


def _kind(name: str) -> str:
    """A tensor's name without the numbers of its block."""
    return re.sub(r"\d+", "#", name)


def _counts(value: Tensor) -> Iterable[tuple[float, int]]:
    """The different values of a tensor and how often they occur."""
    if value.numel() and value.min() == value.max():  # most are: no need to sort millions
        return [(value.flatten()[0].item(), value.numel())]
    values, counts = torch.unique(value, return_counts=True)
    return zip(values.tolist(), counts.tolist(), strict=True)


def _read_by_timm(record: WeightsRecord, state: StateDict) -> StateDict:
    """The state of timm's own module after it has loaded `state`; strict only where timm is.

    Raises:
        ValueError: timm does not know the layout.
    """
    config = {
        "architecture": record.architecture,
        "model_args": {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}},
    }
    # It warns of every name it leaves out; whether the file will do is said once, in one line.
    level = _timm_log.level
    _timm_log.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=()):
            return build_encoder(config).state_dict()
    except Exception as error:
        # timm's readers take a file's layout for granted: an unknown one fails anywhere in them.
        raise ValueError("timm does not know this layout") from error
    finally:
        _timm_log.setLevel(level)


def _without_effect(module: nn.Module) -> set[str]:
    """Names of the parameters that the last layer's features do not depend on.

    Some published files lack them, such as the norm of a classifier that was never trained.
    """
    parameters = dict(module.named_parameters())
    with torch.enable_grad():
        total = patch_features(module, small_picture(module)).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {name for name, slope in zip(parameters, gradients, strict=True) if slope is None}
