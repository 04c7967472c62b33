"""Labels of patches: each takes the label of the pixels under it (stage 2)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fmbseg.data.labels import UNLABELLED, patch_majority


def patch_labels(
    label: npt.NDArray[np.integer], grid: tuple[int, int], purity: float
) -> npt.NDArray[np.int64]:
    """Majority label under each patch of a grid laid over the whole image (see `patch_majority`).

    Args:
        label: [H, W] class indices, 255 where unlabelled.
        grid: (h, w) patches.
        purity: least share (0 to 1) of the whole patch, unlabelled pixels included, that the
            majority label covers; a patch below it is unlabelled. A patch without any labelled
            pixel is unlabelled also at 0.

    Returns:
        [h, w] int64, 255 where unlabelled.
    """
    majority, share = patch_majority(label, grid, ignore=UNLABELLED)
    return np.where(share < purity, UNLABELLED, majority)
