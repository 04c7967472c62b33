"""The best of thousands of maps, without upsampling those that cannot be it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# Scores held at once: 64 MB in float32.
_ELEMENTS = 1 << 24


def best_of_many(values: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The best map of each pixel and its value, bilinear with align_corners=False.

    A pixel lies between four patches, and its score between theirs. So a map that is at none of the
    four as high as another is at all of them is not the best of any pixel between them.

    Args:
        values: [M, h, w] float32.
        size: (H, W), pixels.

    Returns:
        [H, W] int64 and [H, W] float32, on the device of the values.
    """
    padded = F.pad(values[None], (0, 1, 0, 1), mode="replicate")
    highest = F.max_pool2d(padded, 2, stride=1)[0]
    lowest = -F.max_pool2d(-padded, 2, stride=1)[0]
    contends = highest >= lowest.amax(dim=0) - 1e-6  # rounding
    found = torch.empty(size, dtype=torch.int64, device=values.device)
    best = torch.empty(size, dtype=values.dtype, device=values.device)
    for i, rows, down in _intervals(size[0], values.shape[1], values.device):
        for j, columns, across in _intervals(size[1], values.shape[2], values.device):
            (few,) = contends[:, i, j].nonzero(as_tuple=True)
            corners = padded[0, few, i : i + 2, j : j + 2]
            step = max(1, _ELEMENTS // (len(few) * len(across)))
            for start in range(0, len(down), step):
                scores = _between(corners, down[start : start + step], across)
                part = slice(rows.start + start, min(rows.start + start + step, rows.stop))
                best[part, columns], index = scores.max(dim=0)
                found[part, columns] = few[index]
    return found, best


def _between(corners: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Corners [M, 2, 2] at places 0 to 1 between them: [M, rows, columns]."""
    sides = torch.lerp(corners[:, :, :1], corners[:, :, 1:], across)
    return torch.lerp(sides[:, :1], sides[:, 1:], down[:, None])


def _intervals(
    length: int, patches: int, device: torch.device
) -> Iterator[tuple[int, slice, Tensor]]:
    """Each patch of a line, the pixels from its centre to the next, and how far those are."""
    centre = (torch.arange(length, device=device) + 0.5) * (patches / length) - 0.5
    centre = centre.clamp_min(0.0)
    upper = centre.long().clamp_max(patches - 1)
    start = 0
    for index, count in enumerate(torch.bincount(upper, minlength=patches).tolist()):
        if count:
            pixels = slice(start, start + count)
            yield index, pixels, (centre[pixels] - index).clamp_max(1.0)
            start += count
