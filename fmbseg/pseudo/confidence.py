"""How sure the labels of stage 1 are, pixel by pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from fmbseg.config import LabelSection
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.classification import Masks, mask_features
from fmbseg.pseudo.detection import similarity_to_classes
from fmbseg.pseudo.pipeline import ImageLabels, painting, reached

_NOTHING = -1


def label_confidence(
    found: ImageLabels,
    dense: npt.NDArray[np.floating],
    text: TextEmbeddings,
    section: LabelSection,
    logit_scale: float,
) -> npt.NDArray[np.float32]:
    """The probability of each pixel's class, which is that of the mask on top.

    Args:
        found: labels of an image of H x W pixels.
        dense: [h, w, D] unit patch features of it.
        text: embeddings of the vocabulary.
        section: which masks are in the label map.
        logit_scale: of the softmax over all classes.

    Returns:
        [H, W] float32, 0 to 1; 0 under no mask.
    """
    sure = np.zeros(found.label.shape, dtype=np.float32)
    layers: tuple[tuple[Masks, npt.NDArray[np.int64], npt.NDArray[np.float32], bool], ...] = (
        (found.queried, found.detections.classes, found.query_similarity, section.use_queries),
        (found.automatic.masks, found.classes, found.similarity, section.use_masks),
    )
    for masks, classes, similarity, use in layers:
        used = use & reached(similarity, classes, text, section)
        if not used.any():
            continue
        cosines = torch.from_numpy(similarity_to_classes(mask_features(dense, masks), text))
        probability = (logit_scale * cosines).softmax(dim=1).numpy()
        numbers = np.where(used, np.arange(len(classes)), _NOTHING)
        for mask, number in painting(((masks, numbers),), _NOTHING):
            sure[mask] = probability[number, classes[number]]
    return sure
