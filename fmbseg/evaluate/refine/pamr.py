"""Pixels take what neighbours of a like colour have (PAMR), without any weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fmbseg.evaluate.refine.colours import ByColours
from fmbseg.inference.maps import upsample

# The defaults of its authors' own code.
ITERATIONS = 10
DILATIONS = (1, 2, 4, 8, 12, 24)
_SPREAD = 0.1  # of a neighbourhood's standard deviation: how fast likeness falls


class PixelAdaptive(ByColours):
    """Pixel-adaptive mask refinement of the similarities, at the image's own size."""

    def at_pixels(self, colours: Tensor, values: Tensor) -> Tensor:
        """See `ByColours`."""
        height, width = colours.shape[1:]
        return pamr(colours, upsample(values, (height, width)))


@torch.no_grad()
def pamr(
    colours: Tensor,
    values: Tensor,
    dilations: Sequence[int] = DILATIONS,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Pixel-adaptive refinement (Araslanov, Roth, CVPR 2020, arXiv 2005.08104, section 3.4).

    Again and again a pixel takes the mean of its neighbours, the 8 of each dilation. The weights
    are softmax over the neighbours j of -mean over the channels of |x_i - x_j| / (0.1 * s_i), with
    s_i the standard deviation of the channel over pixel and neighbours (the pixel once for each
    dilation). Beyond the border its own pixels go on.

    Args:
        colours: [C, H, W] float.
        values: [M, H, W] float.
        dilations: distances of the neighbours, pixels.
        iterations: how often.

    Returns:
        [M, H, W]; every value is a weighted mean of the given ones.
    """
    near = torch.stack(list(_neighbours(colours, dilations)))
    seen = torch.cat([near, colours[None].expand(len(dilations), -1, -1, -1)])
    spread = 1e-8 + _SPREAD * seen.std(dim=0)
    weights = (-(near - colours).abs() / spread).mean(dim=1).softmax(dim=0)
    del near, seen
    for _ in range(iterations):
        total = torch.zeros_like(values)
        for weight, moved in zip(weights, _neighbours(values, dilations), strict=True):
            total.addcmul_(weight, moved)
        values = total
    return values


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Maps [C, H, W] moved so that each pixel has a neighbour's value; 8 for each dilation."""
    height, width = maps.shape[1:]
    for distance in dilations:
        padded = F.pad(maps[None], (distance,) * 4, mode="replicate")[0]
        for row in (0, distance, 2 * distance):
            for column in (0, distance, 2 * distance):
                if (row, column) != (distance, distance):
                    yield padded[:, row : row + height, column : column + width]
