"""1.1 Querying: points where a detected class is, and the mask model's mask for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fmbseg.models.mask_model import Encoding, MaskModel, PromptMasks
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.detection import similarity_to_classes

# SAM gives three masks a prompt at the image's size; two of them are dropped after each call.
_PIXELS_A_CALL = 2**27


def query_points(
    dense: npt.NDArray[np.floating],
    text: TextEmbeddings,
    classes: npt.NDArray[np.int64],
    count: int,
    image_size: tuple[int, int],
) -> npt.NDArray[np.float32]:
    """Centres of the patches most similar to each class (1.1 Querying).

    Args:
        dense: [h, w, D] unit CLIP patch features of the whole image.
        text: embeddings of the vocabulary.
        classes: [c] indices of the detected classes.
        count: points a class; a map of fewer patches gives as many points as it has patches.
        image_size: (width, height) of the original image in pixels.

    Returns:
        [c, P, 2] float32, (x, y) in pixels of the original image, the most similar patch first;
        of equals the first in row-major order.
    """
    rows, columns = dense.shape[:2]
    width, height = image_size
    # Only the detected classes are ranked; a vocabulary may hold thousands.
    similarity = similarity_to_classes(dense, text, classes).reshape(rows * columns, -1)
    order = np.argsort(-similarity, axis=0, kind="stable")[:count].T
    x = (order % columns + 0.5) * (width / columns)
    y = (order // columns + 0.5) * (height / rows)
    return np.stack([x, y], axis=-1).astype(np.float32)


def choose_masks(masks: PromptMasks) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """The most confident of the masks that a mask model gives for a prompt (1.1 Querying).

    Args:
        masks: masks [B, C, H, W] bool and predicted IoU [B, C] of B prompts.

    Returns:
        masks [B, H, W] bool and predicted IoU [B] float32.
    """
    best = masks.predicted_iou.argmax(axis=1)
    rows = np.arange(len(best))
    return masks.masks[rows, best], masks.predicted_iou[rows, best]


def query_masks(
    model: MaskModel[Encoding],
    encoding: Encoding,
    points: npt.NDArray[np.float32],
    batch_size: int,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Prompt with the points of each class together, and keep the best mask (1.1 Querying).

    Args:
        model: the mask model.
        encoding: its encoding of an image of H x W pixels.
        points: [c, P, 2] float32, (x, y) in pixels of the original image.
        batch_size: most prompts a decoder call; fewer where the masks would be too large.

    Returns:
        masks [c, H, W] bool and predicted IoU [c] float32.
    """
    height, width = encoding.original_size
    batch = max(1, min(batch_size, _PIXELS_A_CALL // (3 * height * width)))
    masks = np.zeros((len(points), height, width), dtype=np.bool_)
    iou = np.zeros(len(points), dtype=np.float32)
    for start in range(0, len(points), batch):
        part = slice(start, start + batch)
        masks[part], iou[part] = choose_masks(model.predict_points(encoding, points[part]))
    return masks, iou
