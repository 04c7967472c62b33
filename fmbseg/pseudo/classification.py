"""1.2 Classification: which of the detected classes a mask shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from fmbseg.data.labels import patch_overlaps, unlabelled
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.detection import similarity_to_classes

Masks = Sequence[npt.NDArray[np.bool_]] | npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Regions:
    """Masks of an image with what CLIP sees in them.

    Attributes:
        masks: M masks [H, W] bool.
        features: [M, D] float32, see `mask_features`.
    """

    masks: Masks
    features: npt.NDArray[np.float32]


def regions(dense: npt.NDArray[np.floating], masks: Masks) -> Regions:
    """Masks with their features, see `mask_features`."""
    return Regions(masks, mask_features(dense, masks))


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
    if len(masks) == 0:
        return np.zeros((0, channels), dtype=np.float32)
    height, width = masks[0].shape
    down, across = _shares(height, rows), _shares(width, columns)
    area = torch.zeros(len(masks), rows, columns)
    for index in range(len(masks)):
        mask: npt.NDArray[np.bool_] = masks[index]
        # Most masks are small: only their box goes through the two products.
        x, y, box_width, box_height = cv2.boundingRect(mask.view(np.uint8))
        lines, places = slice(y, y + box_height), slice(x, x + box_width)
        box = torch.from_numpy(mask[lines, places].astype(np.float32))
        area[index] = down[:, lines] @ (box @ across[:, places].T)
    # torch and not numpy: its products keep to the configured number of threads.
    flat = torch.from_numpy(dense.reshape(rows * columns, channels).astype(np.float32))
    # The sum holds the mask's area as a factor; normalising needs no division by it.
    return F.normalize(area.view(len(masks), -1) @ flat, dim=1).numpy()


def classify_masks(
    features: npt.NDArray[np.float32], text: TextEmbeddings, detected: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The detected class whose text is most similar to each mask's feature (1.2 Classification).

    Args:
        features: [M, D] unit mask features.
        text: embeddings of the vocabulary.
        detected: [c] indices of the classes detected in the image.

    Returns:
        classes [M] int64 and their cosine [M] float32; unlabelled (255, of more than 255 classes
        65535) and NaN where nothing was detected.
    """
    if len(detected) == 0:
        nothing = np.full(len(features), unlabelled(len(text)), dtype=np.int64)
        return nothing, np.full(len(features), np.nan, dtype=np.float32)
    similarity = similarity_to_classes(features, text, detected)
    best = similarity.argmax(axis=1)
    return detected[best], similarity[np.arange(len(features)), best]


def margins(
    features: npt.NDArray[np.float32],
    text: TextEmbeddings,
    classes: npt.NDArray[np.int64],
    detected: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """How much more similar a mask is to its class than to any other detected one.

    Args:
        features: [M, D] unit mask features.
        text: embeddings of the vocabulary.
        classes: [M] the class of each, 255 for none.
        detected: [c] indices of the classes detected in the image.

    Returns:
        [M] float32 differences of cosines, negative where another class is more similar; NaN
        where a mask has no class or no other class was detected.
    """
    found: npt.NDArray[np.float32] = np.full(len(features), np.nan, dtype=np.float32)
    if len(detected) < 2 or not len(features):
        return found
    similarity = similarity_to_classes(features, text)[:, detected]
    own = classes[:, None] == detected
    other = np.where(own, -np.inf, similarity).max(axis=1)
    named = own.any(axis=1)
    found[named] = (similarity[own] - other[named]).astype(np.float32)
    return found


def _shares(pixels: int, cells: int) -> torch.Tensor:
    """[cells, pixels] float32: how much of each pixel lies in each of `cells` equal intervals."""
    return torch.from_numpy(patch_overlaps(pixels, cells) / cells).float()
