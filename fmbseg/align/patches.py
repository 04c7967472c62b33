"""Labels of patches: each takes the label of the pixels under it (stage 2)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fmbseg.align.losses import IGNORE


def patch_labels(
    label: npt.NDArray[np.integer], grid: tuple[int, int], purity: float, ignore: int = IGNORE
) -> npt.NDArray[np.int64]:
    """Majority label under each patch of a grid laid over the whole image.

    Where the grid does not divide the image, a pixel on a border counts for each patch by the
    share of its area that lies in it.

    Args:
        label: [H, W] class indices, `ignore` where unlabelled.
        grid: (h, w) patches.
        purity: least share (0 to 1) of the whole patch, unlabelled pixels included, that the
            majority label covers; a patch below it is unlabelled. A patch without any labelled
            pixel is unlabelled also at 0. Of two labels with equal shares the lower index wins.
        ignore: the value of unlabelled pixels and patches.

    Returns:
        [h, w] int64.
    """
    height, width = label.shape
    rows, columns = _overlaps(height, grid[0]), _overlaps(width, grid[1])
    best = np.zeros(grid)
    result = np.full(grid, ignore, dtype=np.int64)
    for index in np.unique(label):
        if index == ignore:
            continue
        # Whole numbers, so equal areas compare as equal: a patch has an area of H * W.
        area = rows @ (label == index).astype(np.float64) @ columns.T
        larger = area > best
        best[larger] = area[larger]
        result[larger] = index
    result[best / (height * width) < purity] = ignore
    return result


def _overlaps(length: int, cells: int) -> npt.NDArray[np.float64]:
    """Overlap of each cell with each pixel of a line, [cells, length], in 1/cells of a pixel."""
    cell = np.arange(cells)[:, None] * length
    pixel = np.arange(length)[None, :] * cells
    overlap = np.minimum(cell + length, pixel + cells) - np.maximum(cell, pixel)
    return overlap.clip(min=0).astype(np.float64)
