"""Similarities upsampled along the edges of the picture (joint bilateral), without any weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fmbseg.evaluate.refine.colours import ByColours

RADIUS = 2  # cells around the nearest one
SPATIAL = 1.0  # standard deviation of the distance, cells
RANGE = 0.1  # the same of the colour, 1 = from black to white in one channel
_LEAST = 1e-12  # below it a quotient of weights is rounding


class JointBilateral(ByColours):
    """Joint bilateral upsampling of the similarities, instead of bilinear interpolation."""

    def at_pixels(self, colours: Tensor, values: Tensor) -> Tensor:
        """See `ByColours`."""
        return joint_bilateral(colours, values)


@torch.no_grad()
def joint_bilateral(
    colours: Tensor,
    values: Tensor,
    radius: int = RADIUS,
    spatial: float = SPATIAL,
    colour: float = RANGE,
) -> Tensor:
    """Joint bilateral upsampling (Kopf et al., SIGGRAPH 2007, equation 3).

    S_p = sum_q S_q f(|p' - q|) g(|I_p - I_q|) / sum_q f g: over the cells q of the grid within
    `radius` of the one that pixel p lies in, with p' the pixel in cells, f and g Gaussians,
    and I_q the mean colour of the cell. Cells beyond the border do not exist.

    Args:
        colours: [C, H, W] float, the picture.
        values: [M, h, w] float, on a grid laid over the whole picture.
        radius: cells.
        spatial: standard deviation of f, cells.
        colour: standard deviation of g, in the unit of the colours.

    Returns:
        [M, H, W]; every value is a weighted mean of the given ones.
    """
    (height, width), (rows, columns) = colours.shape[1:], values.shape[1:]
    y, x = _in_cells(height, rows, values), _in_cells(width, columns, values)
    cells = F.adaptive_avg_pool2d(colours[None], (rows, columns))[0].to(values.dtype)
    total = values.new_zeros(len(values), height, width)
    norm = values.new_zeros(height, width)
    for down in range(-radius, radius + 1):
        v = y.round().long() + down
        for right in range(-radius, radius + 1):
            u = x.round().long() + right
            there = _inside(v, rows)[:, None] * _inside(u, columns)[None]
            at = (v.clamp(0, rows - 1)[:, None], u.clamp(0, columns - 1)[None])
            far = (y - v)[:, None] ** 2 + (x - u)[None] ** 2
            other = (colours - cells[:, at[0], at[1]]).square().sum(dim=0)
            weight = there * torch.exp(-far / (2 * spatial**2) - other / (2 * colour**2))
            total.addcmul_(weight[None], values[:, at[0], at[1]])
            norm += weight
    # Where no cell near by is of a like colour, nearness alone decides, as in the bilinear way.
    plain = F.interpolate(values[None], (height, width), mode="bilinear")[0]
    return torch.where(norm > _LEAST, total / norm.clamp(min=_LEAST), plain)


def _in_cells(pixels: int, cells: int, like: Tensor) -> Tensor:
    """[pixels] where the middle of each pixel lies, 0 the middle of the first cell."""
    places = torch.arange(pixels, dtype=like.dtype, device=like.device)
    return (places + 0.5) * (cells / pixels) - 0.5


def _inside(index: Tensor, cells: int) -> Tensor:
    return (index >= 0) & (index < cells)
