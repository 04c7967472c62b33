"""Augmentations of pretraining images, on tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_pixels(images: NDArray[np.generic]) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in -1..1 (mean and std 0.5)."""
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1


def recolour(pixels: Tensor, strength: float = 0.2) -> Tensor:
    """Random brightness, contrast and channel gain for each image of [N, 3, H, W] in -1..1."""
    n = len(pixels)
    gain = 1 + strength * (2 * torch.rand(n, 3, 1, 1) - 1)
    shift = strength * (2 * torch.rand(n, 1, 1, 1) - 1)
    return (pixels * gain + shift).clamp(-1, 1)
