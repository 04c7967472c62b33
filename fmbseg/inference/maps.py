"""Similarities on a grid of patches, brought to the image's own size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Scores at full size held at once when pixels are decided: 64 MB in float32.
_BAND_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Maps:
    """How similar one image is to words, a map a class or a map a word.

    Attributes:
        values: [M, h, w] float32 cosines.
        classes: [M] int64, the class of each map, on the device of `values`.
    """

    values: Tensor
    classes: Tensor

    def without(self, unasked: int) -> Maps:
        """Those of all classes but one."""
        kept = self.classes != unasked
        return Maps(self.values[kept], self.classes[kept])

    def by_class(self, num_classes: int, size: tuple[int, int]) -> Tensor:
        """[K, H, W] float32 at the image's size (H, W): of a class's maps the highest cosine."""
        scores = self.values.new_full((num_classes, *size), float("-inf"))
        for owner, value in zip(self.classes.tolist(), self.values, strict=True):
            torch.maximum(scores[owner], upsample(value[None], size)[0], out=scores[owner])
        return scores


def best_map(
    values: Tensor, size: tuple[int, int], logit_scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Upsample maps and take the best of each pixel, with how sure it is, in bands of rows.

    Args:
        values: [M, h, w] float32 cosines.
        size: (H, W) of the image, pixels.
        logit_scale: of the softmax over the maps; None: no softmax.

    Returns:
        [H, W] int64 indices of maps, the equal of an argmax over the whole upsampled maps without
        holding them; and [H, W] float32, the best one's probability, without softmax its cosine.
    """
    height, width = size
    found = torch.empty(size, dtype=torch.int64, device=values.device)
    sure = torch.empty(size, dtype=values.dtype, device=values.device)
    band = max(1, _BAND_ELEMENTS // (len(values) * width))
    for start in range(0, height, band):
        rows = slice(start, min(start + band, height))
        scores = upsample(values, size, rows)
        best, found[rows] = scores.max(dim=0)
        if logit_scale is not None:
            logits = logit_scale * scores
            best = (logit_scale * best - logits.logsumexp(dim=0)).exp()
        sure[rows] = best
    return found, sure


def upsample(values: Tensor, size: tuple[int, int], rows: slice | None = None) -> Tensor:
    """Maps at the image's size, bilinear with align_corners=False.

    Args:
        values: [M, h, w].
        size: (H, W), pixels.
        rows: those that are wanted; None: all.

    Returns:
        [M, rows, W].
    """
    height, width = size
    start, stop = (0, height) if rows is None else (rows.start, rows.stop)
    count = values.shape[1]
    # Rows first, so that a band is not more work than its share.
    centre = (torch.arange(start, stop, device=values.device) + 0.5) * (count / height) - 0.5
    centre = centre.clamp_min(0.0)
    upper = centre.long().clamp_max(count - 1)
    lower = (upper + 1).clamp_max(count - 1)
    lines = torch.lerp(values[:, upper], values[:, lower], (centre - upper)[None, :, None])
    return F.interpolate(lines[None], (stop - start, width), mode="bilinear")[0]
