"""A finer grid from the same encoder: the picture moved by parts of a patch, answers interleaved.

What upsampling guesses is asked: in a picture that is moved by half a patch, centres of patches lie
between those of the picture itself. Nothing is trained for it; n x n pictures are encoded for one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def offsets(patch: int, shifts: int) -> list[int]:
    """Whole pixels by which patches are moved along one axis, ascending.

    Of `shifts` equal cells of a patch the centres, as seen from the patch's own; where these are no
    whole pixels, the nearest ones.

    >>> offsets(8, 2), offsets(8, 4), offsets(14, 2), offsets(16, 1)
    ([-2, 2], [-3, -1, 1, 3], [-3, 4], [0])
    """
    # floor((2 i + 1 - n) p / (2 n) + 1/2), in whole numbers.
    return [((2 * i + 1 - shifts) * patch + shifts) // (2 * shifts) for i in range(shifts)]


def shifted(embed: Callable[[Tensor], Tensor], pixels: Tensor, patch: int, shifts: int) -> Tensor:
    """Embed pictures on a grid that is `shifts` times as fine along each axis.

    Args:
        embed: [N, H, W, 3] uint8 -> [N, H / patch, W / patch, D].
        pixels: [N, H, W, 3] uint8, H and W multiples of the patch. Beyond its border a picture goes
            on with its outermost pixels.
        patch: pixels.
        shifts: n; 1: the picture alone.

    Returns:
        [N, n H / patch, n W / patch, D]; cell (r, c) is of the picture moved by the offsets number
        r modulo n and c modulo n.
    """
    if shifts == 1:
        return embed(pixels)
    height, width = pixels.shape[1:3]
    moves = offsets(patch, shifts)
    rows, columns = torch.arange(height), torch.arange(width)
    found = torch.stack(
        [
            embed(
                pixels[:, (rows + y).clamp(0, height - 1)][:, :, (columns + x).clamp(0, width - 1)]
            )
            for y in moves
            for x in moves
        ]
    )  # [n * n, N, h, w, D]
    count, high, wide, channels = found.shape[1:]
    fine = found.view(shifts, shifts, count, high, wide, channels).permute(2, 3, 0, 4, 1, 5)
    return fine.reshape(count, shifts * high, shifts * wide, channels)
