"""Patch features of timm's encoders, and what timm says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def feature_info(module: Any) -> list[dict[str, Any]]:
    """Each block's record by timm: `num_chs` channels and `reduction` pixels a patch."""
    return list(module.feature_info)


def patch_features(module: Any, pixels: Tensor, layers: Sequence[int] = ()) -> Tensor:
    """Patch features of one layer or more, each after the final norm where timm has one for it.

    Args:
        module: any encoder of timm with `forward_intermediates`.
        pixels: [N, 3, H, W] normalised.
        layers: ascending indices into `feature_info`, of layers of one patch size; none: the last.

    Returns:
        [N, D, H / patch, W / patch], the layers' channels after each other.
    """
    maps: list[Tensor] = module.forward_intermediates(
        pixels,
        indices=list(layers) or 1,
        norm=True,
        stop_early=True,
        intermediates_only=True,
    )
    return torch.cat(maps, dim=1)


def small_picture(module: nn.Module) -> Tensor:
    """Zeros [1, 3, H, W] of 2 x 3 of the module's coarsest patches."""
    step = max(layer["reduction"] for layer in feature_info(module))
    return torch.zeros(1, 3, 2 * step, 3 * step)
