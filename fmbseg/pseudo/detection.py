"""1.1 Detection: which classes of the vocabulary are in an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fmbseg.config import DetectionSection
from fmbseg.models.text import TextEmbeddings, class_similarity


@dataclass(frozen=True)
class Detections:
    """The classes found in one image, in ascending order of their index.

    Attributes:
        classes: [c] int64, index in the vocabulary.
        votes: [c] int64, number of crops whose most similar class it is.
        similarity: [c] float32, cosine of the class with the crop most similar to it; with the
            rule `patches`, with the patch.
    """

    classes: npt.NDArray[np.int64]
    votes: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]


def detect_classes(
    windows: npt.NDArray[np.floating],
    dense: npt.NDArray[np.floating],
    text: TextEmbeddings,
    section: DetectionSection,
) -> Detections:
    """Compare every crop with every class and keep the classes that are present (1.1 Detection).

    With rule `votes` a crop votes for its most similar class, unless that similarity is below
    `min_vote_similarity`; a class is present with `min_votes` votes. With rule `similarity` a
    class is present when its best crop reaches `min_similarity`, with rule `patches` when its best
    patch does. The source counts votes and gives no threshold: the other rules and all values are
    this project's. The background of a vocabulary is a class like others.

    Args:
        windows: [n, D] unit CLIP image embeddings of the crops.
        dense: [h, w, D] unit CLIP patch features of the whole image.
        text: embeddings of a vocabulary of K classes.
        section: rule and thresholds.
    """
    similarity = similarity_to_classes(windows, text)
    best = similarity.max(axis=0)
    # numpy's argmax takes the first of equals, whatever the device was.
    choice = similarity.argmax(axis=1)
    voting = similarity.max(axis=1) >= section.min_vote_similarity
    votes = np.bincount(choice[voting], minlength=similarity.shape[1]).astype(np.int64)
    if section.rule == "patches":
        best = similarity_to_classes(dense, text).max(axis=(0, 1))
    present = (
        votes >= section.min_votes if section.rule == "votes" else best >= section.min_similarity
    )
    classes = np.flatnonzero(present).astype(np.int64)
    return Detections(classes, votes[classes], best[classes])


def similarity_to_classes(
    vectors: npt.NDArray[np.floating], text: TextEmbeddings
) -> npt.NDArray[np.float32]:
    """Cosine of unit vectors with every class of the vocabulary.

    Args:
        vectors: [..., D] unit vectors.
        text: embeddings of K classes; a class is as similar as its most similar query.

    Returns:
        [..., K] float32.
    """
    device = text.queries.device
    x = torch.from_numpy(np.asarray(vectors, dtype=np.float32)).to(device)
    result: npt.NDArray[np.float32] = class_similarity(x, text).float().cpu().numpy()
    return result
