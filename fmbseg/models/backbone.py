"""The frozen self-supervised encoder whose patch features stage 2 aligns with the text space."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fmbseg.errors import ConfigError, WeightsError
from fmbseg.models import tiny
from fmbseg.models.build import build_encoder
from fmbseg.models.weights import WeightsRecord, load_weights, resolve, weights_record

__all__ = ["Backbone", "build_encoder", "load_backbone"]

_timm_log = logging.getLogger("timm.models._builder")
# DINOv2's published files hold the token that hid patches in its pretraining.
_PRETRAINING_ONLY = ("mask_token",)


class Backbone:
    """A frozen encoder of timm; computes without gradients.

    Any image size that is a multiple of the patch is taken: timm resamples learned position
    embeddings (bicubic) to the image's grid.

    Attributes:
        module: the timm model, float32 weights; runs in `dtype` by autocast.
        patch_size: pixels a feature vector stands for, timm's `reduction` at the layer taken.
        dim: feature channels D.
        mean: of the pixels, scale 0 to 1.
        std: of the pixels, scale 0 to 1.
    """

    def __init__(
        self,
        module: nn.Module,
        record: WeightsRecord,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.module = module.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.dtype = dtype
        self.mean, self.std = record.mean, record.std
        self._layer = record.layer
        taken = feature_info(module)[-1 if record.layer is None else record.layer]
        self.patch_size: int = taken["reduction"]
        self.dim: int = taken["num_chs"]

    @torch.no_grad()
    def features(self, images: Tensor | npt.NDArray[np.uint8]) -> Tensor:
        """Patch features of the layer the model was named with, the last one by default.

        Class and register tokens are left out; a transformer's tokens have passed its final norm.

        Args:
            images: [N, H, W, 3] uint8 RGB; H and W multiples of the patch size.

        Returns:
            [N, H / patch, W / patch, D] float32, on the model's device.

        Raises:
            ConfigError: another shape or dtype, or a side that is no multiple of the patch.
        """
        pixels = torch.as_tensor(images)
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != torch.uint8:
            raise ConfigError(
                f"images are {pixels.dtype} {tuple(pixels.shape)}: give uint8 [N, H, W, 3]"
            )
        _, height, width, _ = pixels.shape
        patch = self.patch_size
        if height % patch or width % patch or not height or not width:
            raise ConfigError(
                f"images of {width} x {height} px: resize them to multiples of {patch} px"
            )
        mean, std = (torch.tensor(value, device=self.device) for value in (self.mean, self.std))
        inputs = (pixels.to(self.device).float() / 255 - mean) / std
        mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed):
            pixels = inputs.permute(0, 3, 1, 2).contiguous()
            maps = patch_features(self.module, pixels, self._layer)
        return maps.float().permute(0, 2, 3, 1)


def feature_info(module: Any) -> list[dict[str, Any]]:
    """Each block's record by timm: `num_chs` channels and `reduction` pixels a patch."""
    return list(module.feature_info)


def patch_features(module: Any, pixels: Tensor, layer: int | None = None) -> Tensor:
    """Patch features of one layer, after the final norm where timm has one for it.

    Args:
        module: any encoder of timm with `forward_intermediates`.
        pixels: [N, 3, H, W] normalised.
        layer: index into `feature_info`; None: the last.

    Returns:
        [N, D, H / patch, W / patch].
    """
    maps: list[Tensor] = module.forward_intermediates(
        pixels,
        indices=1 if layer is None else [layer],
        norm=True,
        stop_early=True,
        intermediates_only=True,
    )
    return maps[0]


def load_backbone(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights_dir: Path | str | None = None,
) -> Backbone:
    """Load a frozen encoder of the registry, or any of timm's (`timm/NAME[@LAYER]`).

    Raises:
        WeightsError: the name is no frozen encoder that gives patch features, or its weights are
            missing, damaged or do not fit.
    """
    record = weights_record(name, "timm")
    resolve(name, weights_dir)  # a missing file is reported before the slow building
    with torch.random.fork_rng(devices=()):  # the draws of random weights leave no trace
        if record.architecture == "tiny":
            module = build_encoder(tiny.architecture("encoder"))
        else:
            module = _build_published(record)
    load_weights(
        module,
        record,
        weights_dir,
        unused=_PRETRAINING_ONLY,
        convert=partial(_as_timm_reads, record, module),
    )
    return Backbone(module, record, device, dtype)


def _build_published(record: WeightsRecord) -> nn.Module:
    """A published encoder with random weights, its classifier included if it has one."""
    config = {"architecture": record.architecture, "model_args": {"dynamic_img_size": True}}
    try:
        module = build_encoder(config)
    except TypeError:
        # Networks without position embedding take any size, and have no such argument.
        module = build_encoder({**config, "model_args": {}})
    _require_patch_features(module, record)
    return module


def _require_patch_features(module: nn.Module, record: WeightsRecord) -> None:
    """Try a small picture, wider than high: not every network of timm takes it."""
    if not hasattr(module, "forward_intermediates") or not hasattr(module, "feature_info"):
        raise WeightsError(f"{record.name} gives no patch features: choose another encoder")
    layers = feature_info(module)
    if record.layer is not None and record.layer >= len(layers):
        known = ", ".join(
            f"{i} ({layer['num_chs']} channels, patch {layer['reduction']} px)"
            for i, layer in enumerate(layers)
        )
        raise WeightsError(f"{record.name}: it has no such layer; choose one of {known}")
    taken = layers[-1 if record.layer is None else record.layer]
    picture = _small_picture(module)
    grid = tuple(side // taken["reduction"] for side in picture.shape[2:])
    try:
        with torch.no_grad():
            maps = patch_features(module, picture, record.layer)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(
            f"{record.name} does not take pictures of any size ({reason}): choose another encoder"
        ) from error
    if maps.shape != (1, taken["num_chs"], *grid):
        raise WeightsError(
            f"{record.name} gives {tuple(maps.shape)} instead of (1, {taken['num_chs']}, "
            f"{grid[0]}, {grid[1]}): choose another encoder"
        )


def _small_picture(module: nn.Module) -> Tensor:
    """Zeros [1, 3, H, W] of 2 x 3 of the module's coarsest patches."""
    step = max(layer["reduction"] for layer in feature_info(module))
    return torch.zeros(1, 3, 2 * step, 3 * step)


def _as_timm_reads(
    record: WeightsRecord, module: nn.Module, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """A file in its author's layout, by timm's own reader.

    Raises:
        ValueError: timm does not know the layout, would bend weights of another size to fit, or
            would leave tensors that features depend on as they were initialised.
    """
    wanted = module.state_dict()
    # Position embeddings may differ: some authors store the class token's place in them.
    bent = [
        key
        for key in wanted.keys() & state.keys()
        if key != "pos_embed" and wanted[key].shape != state[key].shape
    ]
    # An empty state means "none given" to timm: it would fetch one.
    if record.architecture == "tiny" or bent or not state:
        raise ValueError("not in an author's layout")
    try:
        left = _left_as_initialised(record, state)
        read = _read_by_timm(record, state)
    except Exception as error:
        # timm's readers take a file's layout for granted: an unknown one fails anywhere in them.
        raise ValueError("timm does not know this layout") from error
    if left and (lost := left - _without_effect(module)):
        raise ValueError(f"{min(lost)} is not in the file")
    return read


def _read_by_timm(record: WeightsRecord, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of timm's own module after it has loaded `state`; strict only where timm is."""
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
    finally:
        _timm_log.setLevel(level)


def _left_as_initialised(record: WeightsRecord, state: dict[str, Tensor]) -> set[str]:
    """Names of the module's tensors that timm does not fill from a file's.

    timm does not load every architecture strictly. Whatever its reader does to names and shapes, a
    tensor that comes from a file of NaN holds some; counters, which are integers, are left out.
    """
    marked = {
        key: torch.full_like(value, torch.nan) if value.is_floating_point() else value
        for key, value in state.items()
    }
    return {
        key
        for key, value in _read_by_timm(record, marked).items()
        if value.is_floating_point() and not value.isnan().any()
    }


def _without_effect(module: nn.Module) -> set[str]:
    """Names of the parameters that the last layer's features do not depend on.

    Some published files lack them, such as the norm of a classifier that was never trained.
    """
    parameters = dict(module.named_parameters())
    with torch.enable_grad():
        total = patch_features(module, _small_picture(module)).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {name for name, slope in zip(parameters, gradients, strict=True) if slope is None}
