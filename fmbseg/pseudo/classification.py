"""1.2 Classification: which of the detected classes a mask shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.detection import similarity_to_classes
from fmbseg.pseudo.labels import UNLABELLED

Masks = Sequence[npt.NDArray[np.bool_]] | npt.NDArray[np.bool_]

# Masks are widened to float32 some at a time: 64 MB.
_PIXELS_AT_ONCE = 2**24


def mask_features(dense: npt.NDArray[np.floating], masks: Masks) -> npt.NDArray[np.float32]:
    """Mean CLIP patch feature under each mask (1.2 Classification).

    A patch counts by the area the mask has in it. Patches are the equal cells of the h x w grid
    laid over the image; where H, W do not divide, a pixel counts in each cell by its share.

    Args:
        dense: [h, w, D] patch features of the image.
        masks: M masks [H, W] bool of the original image, an array or a sequence read in turn.

    Returns:
        [M, D] float32 unit vectors; zero for an empty mask.
    """
    rows, columns, channels = dense.shape
    features = torch.zeros(len(masks), channels)
    if len(masks) == 0:
        return features.numpy()
    # torch and not numpy: its products keep to the configured number of threads.
    height, width = masks[0].shape
    down, across = _cell_weights(height, rows), _cell_weights(width, columns).T.contiguous()
    flat = torch.from_numpy(dense.reshape(rows * columns, channels).astype(np.float32))
    step = max(1, _PIXELS_AT_ONCE // (height * width))
    for start in range(0, len(masks), step):
        part = range(start, min(start + step, len(masks)))
        stack = torch.from_numpy(np.stack([masks[index] for index in part])).float()
        # Two small products: columns for all masks as one matrix, then rows.
        narrow = (stack.view(-1, width) @ across).view(len(part), height, columns)
        area = (down @ narrow).view(len(part), rows * columns)
        features[part.start : part.stop] = area @ flat
    # The sum holds the mask's area as a factor; normalising needs no division by it.
    return F.normalize(features, dim=1).numpy()


def classify_masks(
    features: npt.NDArray[np.float32], text: TextEmbeddings, detected: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The detected class whose text is most similar to each mask's feature (1.2 Classification).

    Args:
        features: [M, D] unit mask features.
        text: embeddings of the vocabulary.
        detected: [c] indices of the classes detected in the image.

    Returns:
        classes [M] int64 and their cosine [M] float32; 255 and NaN where nothing was detected.
    """
    if len(detected) == 0:
        unlabelled = np.full(len(features), UNLABELLED, dtype=np.int64)
        return unlabelled, np.full(len(features), np.nan, dtype=np.float32)
    similarity = similarity_to_classes(features, text)[:, detected]
    best = similarity.argmax(axis=1)
    return detected[best], similarity[np.arange(len(features)), best]


def _cell_weights(pixels: int, cells: int) -> torch.Tensor:
    """[cells, pixels] float32: how much of each pixel lies in each of `cells` equal intervals."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * (pixels / cells)
    begins = torch.arange(pixels, dtype=torch.float64)
    left = torch.maximum(edges[:-1, None], begins)
    right = torch.minimum(edges[1:, None], begins + 1)
    return (right - left).clamp(min=0).float()
