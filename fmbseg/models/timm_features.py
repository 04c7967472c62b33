"""Patch features of timm's encoders, and what timm says of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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


def small_picture(module: nn.Module) -> Tensor:
    """Zeros [1, 3, H, W] of 2 x 3 of the module's coarsest patches."""
    step = max(layer["reduction"] for layer in feature_info(module))
    return torch.zeros(1, 3, 2 * step, 3 * step)
