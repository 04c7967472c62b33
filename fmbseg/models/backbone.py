"""The frozen self-supervised encoder whose patch features stage 2 aligns with the text space."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from fmbseg.data.windows import resize_to_short_side
from fmbseg.errors import ConfigError, WeightsError
from fmbseg.machine.device import autocast
from fmbseg.models import tiny
from fmbseg.models.build import build_encoder
from fmbseg.models.loading import load_module
from fmbseg.models.records import WeightsRecord, weights_record
from fmbseg.models.timm_features import feature_info, patch_features, small_picture
from fmbseg.models.timm_layouts import as_timm_reads

# DINOv2's published files hold the token that hid patches in its pretraining.
_PRETRAINING_ONLY = ("mask_token",)
# I-JEPA's authors publish their whole training.
_NESTED = "encoder"


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
        layers: that are taken, see `patch_features`.
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
        self.layers = record.layers
        taken = _taken(module, record)
        self.patch_size: int = taken[0]["reduction"]
        self.dim: int = sum(layer["num_chs"] for layer in taken)

    @torch.no_grad()
    def features(self, images: Tensor | npt.NDArray[np.uint8]) -> Tensor:
        """Patch features of the layers the model was named with, by default the last one.

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
        inputs = normalised(pixels.to(self.device), mean, std)
        with autocast(self.device, self.dtype):
            maps = patch_features(self.module, inputs, self.layers)
        return maps.float().permute(0, 2, 3, 1)


def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels [N, H, W, 3] uint8 RGB as an encoder takes them: [N, 3, H, W] float32.

    Args:
        pixels: on the device of the others.
        mean: [3], scale 0 to 1.
        std: [3], scale 0 to 1.
    """
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def resize_for_encoder(
    image: Image.Image, short_side: int, encoder: Backbone
) -> npt.NDArray[np.uint8]:
    """The image as the encoder takes it: bicubic, both sides a multiple of its patch.

    Args:
        image: RGB.
        short_side: wanted length of the shorter side, pixels.
        encoder: whose patch size counts.

    Returns:
        [H, W, 3] uint8.
    """
    size = encoder_size(image.size, short_side, encoder)
    return np.array(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def image_features(image: Image.Image, short_side: int, encoder: Backbone) -> Tensor:
    """Patch features [h, w, D] float32 of one RGB image, resized as in `resize_for_encoder`."""
    return encoder.features(resize_for_encoder(image, short_side, encoder)[None])[0]


def encoder_size(size: tuple[int, int], short_side: int, encoder: Backbone) -> tuple[int, int]:
    """(width, height) of an image, in pixels, as the encoder takes it; see `resize_for_encoder`."""
    return resize_to_short_side(*size, short_side, encoder.patch_size)


def load_backbone(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights_dir: Path | str | None = None,
) -> Backbone:
    """Load a frozen encoder of the registry or any of timm's, see `fmbseg.models.records`.

    Raises:
        WeightsError: the name is no frozen encoder that gives patch features, or its weights are
            missing, damaged or do not fit.
    """
    record = weights_record(name, "frozen encoder")
    module = load_module(
        record,
        partial(_build, record),
        weights_dir,
        unused=_PRETRAINING_ONLY,
        nested=_NESTED,
        convert=partial(as_timm_reads, record),
    )
    return Backbone(module, record, device, dtype)


def _build(record: WeightsRecord) -> nn.Module:
    """The encoder with random weights, a published one with its classifier if it has one."""
    if record.architecture == "tiny":
        return build_encoder(tiny.architecture("encoder"))
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
    taken = _taken(module, record)
    channels = sum(layer["num_chs"] for layer in taken)
    picture = small_picture(module)
    grid = tuple(side // taken[0]["reduction"] for side in picture.shape[2:])
    try:
        with torch.no_grad():
            maps = patch_features(module, picture, record.layers)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(
            f"{record.name} does not take pictures of any size ({reason}): choose another encoder"
        ) from error
    if maps.shape != (1, channels, *grid):
        raise WeightsError(
            f"{record.name} gives {tuple(maps.shape)} instead of (1, {channels}, "
            f"{grid[0]}, {grid[1]}): choose another encoder"
        )


def _taken(module: nn.Module, record: WeightsRecord) -> list[dict[str, Any]]:
    """What timm says of the layers taken; WeightsError where they are not there or do not join."""
    layers = feature_info(module)
    known = ", ".join(
        f"{i} ({layer['num_chs']} channels, patch {layer['reduction']} px)"
        for i, layer in enumerate(layers)
    )
    if any(layer >= len(layers) for layer in record.layers):
        raise WeightsError(f"{record.name}: it has no such layer; choose one of {known}")
    taken = [layers[layer] for layer in record.layers] or layers[-1:]
    if len({layer["reduction"] for layer in taken}) > 1:
        raise WeightsError(
            f"{record.name}: layers of different patches do not join; it has {known}"
        )
    return taken
