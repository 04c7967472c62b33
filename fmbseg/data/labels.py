"""Label maps: the value of what has no label, and what lies under the patches of a grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BAND_PIXELS = 1 << 22

Label = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""Of a label map [H, W]: as many bits as its classes need."""

UNLABELLED = 255
"""The value of a pixel or a patch without a label: a label map of 8 bits holds 255 classes."""

DEEP_UNLABELLED = 65535
"""The same in a label map of 16 bits, which more classes need."""


def unlabelled(classes: int) -> int:
    """The value of what has no label in label maps of some number of classes."""
    return UNLABELLED if classes <= UNLABELLED else DEEP_UNLABELLED


def as_label(values: npt.NDArray[np.integer], classes: int) -> Label:
    """Values as a label map of some number of classes, in as many bits as those need."""
    return values.astype(np.uint8) if classes <= UNLABELLED else values.astype(np.uint16)


def count_labels(label: npt.NDArray[np.integer], values: int) -> npt.NDArray[np.int64]:
    """[values] pixels of each value 0 to `values` - 1 of a label map [H, W]; no others count.

    In bands of rows, for numpy counts over 64-bit copies.
    """
    counts = np.zeros(values, dtype=np.int64)
    rows = max(1, _BAND_PIXELS // max(1, label.shape[1]))
    for top in range(0, len(label), rows):
        band = label[top : top + rows]
        counts += np.bincount(band[(band >= 0) & (band < values)], minlength=values)
    return counts


def odd_values(values: npt.NDArray[np.integer], classes: int) -> str | None:
    """What is odd about the class indices that a user's label maps hold; None: nothing.

    Each file may be sound, and yet all scores be wrong: nothing in it says what its values mean.

    Args:
        values: all that occur, sorted, without 255.
        classes: number of classes.
    """
    if classes > 1 and values.tolist() == [0]:
        return (
            "of all classes they hold 0 alone (and 255, which is not scored): are they masks of "
            "one object? the value is the class index"
        )
    if classes > 2 and len(values) and values[0] > 0:
        return (
            f"they hold the values {values[0]} to {values[-1]} and never 0: are classes counted "
            "from 1? class indices are counted from 0, 255 is not scored"
        )
    return None


def patch_overlaps(pixels: int, patches: int) -> npt.NDArray[np.float64]:
    """How much of each pixel of a line lies in each of the equal patches it is divided into.

    Returns:
        [patches, pixels], in 1/patches of a pixel: whole numbers, so that sums are exact.
    """
    patch = np.arange(patches)[:, None] * pixels
    pixel = np.arange(pixels)[None, :] * patches
    overlap = np.minimum(patch + pixels, pixel + patches) - np.maximum(patch, pixel)
    return overlap.clip(min=0).astype(np.float64)


def patch_majority(
    label: npt.NDArray[np.integer], grid: tuple[int, int], ignore: int | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The value that covers most of each patch of a grid laid over the whole image.

    Where the grid does not divide the image, a pixel on a border counts for each patch by the
    share of its area that lies in it.

    Args:
        label: [H, W] integers.
        grid: (h, w) patches.
        ignore: a value that is passed over; None: there is none.

    Returns:
        The value [h, w], of two with equal areas the lower one, `ignore` where there is no other;
        and its share [h, w] of the whole patch, ignored pixels included, 0 to 1.
    """
    height, width = label.shape
    rows, columns = patch_overlaps(height, grid[0]), patch_overlaps(width, grid[1])
    best = np.zeros(grid)
    value = np.full(grid, UNLABELLED if ignore is None else ignore, dtype=np.int64)
    for index in np.unique(label):
        if index == ignore:
            continue
        # Whole numbers, so equal areas compare as equal: a patch has an area of H * W.
        area = rows @ (label == index).astype(np.float64) @ columns.T
        larger = area > best
        best[larger] = area[larger]
        value[larger] = index
    return value, best / (height * width)
