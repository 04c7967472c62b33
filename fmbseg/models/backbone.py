"""The frozen self-supervised encoder whose patch features stage 2 aligns with the text space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fmbseg.errors import ConfigError
from fmbseg.models import tiny
from fmbseg.models.build import build_encoder
from fmbseg.models.weights import WeightsRecord, load_weights, resolve, weights_record

__all__ = ["Backbone", "build_encoder", "load_backbone"]

# DINOv2's published files hold the token that hid patches in its pretraining.
_PRETRAINING_ONLY = ("mask_token",)


class Backbone:
    """A frozen encoder of timm; computes without gradients.

    Any image size that is a multiple of the patch is taken: timm resamples learned position
    embeddings (bicubic) to the image's grid.

    Attributes:
        module: the timm model, float32 weights; runs in `dtype` by autocast.
        patch_size: pixels.
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
        last = feature_info(module)[-1]
        self.patch_size: int = last["reduction"]
        self.dim: int = last["num_chs"]

    @torch.no_grad()
    def features(self, images: Tensor | npt.NDArray[np.uint8]) -> Tensor:
        """Patch tokens after the final norm, without class and register tokens.

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
            maps = patch_features(self.module, inputs.permute(0, 3, 1, 2).contiguous())
        return maps.float().permute(0, 2, 3, 1)


def feature_info(module: Any) -> list[dict[str, Any]]:
    """Each block's record by timm: `num_chs` channels and `reduction` pixels a patch."""
    return list(module.feature_info)


def patch_features(module: Any, pixels: Tensor) -> Tensor:
    """Patch features after the last block and the final norm.

    Args:
        module: any encoder of timm with `forward_intermediates`.
        pixels: [N, 3, H, W] normalised.

    Returns:
        [N, D, H / patch, W / patch].
    """
    maps: list[Tensor] = module.forward_intermediates(
        pixels, indices=1, norm=True, intermediates_only=True
    )
    return maps[0]


def load_backbone(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights_dir: Path | str | None = None,
) -> Backbone:
    """Load a frozen encoder of the registry.

    Raises:
        WeightsError: the name is no frozen encoder, or its weights are missing, damaged or do
            not fit.
    """
    record = weights_record(name, "timm")
    resolve(name, weights_dir)  # a missing file is reported before the slow building
    if record.architecture == "tiny":
        config = tiny.architecture("encoder")
    else:
        config = {
            "architecture": record.architecture,
            "model_args": {"num_classes": 0, "dynamic_img_size": True},
        }
    with torch.random.fork_rng(devices=()):  # the draws of random weights leave no trace
        module = build_encoder(config)
    load_weights(module, record, weights_dir, unused=_PRETRAINING_ONLY)
    return Backbone(module, record, device, dtype)
