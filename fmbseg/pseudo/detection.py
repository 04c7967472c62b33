"""1.1 Detection: which classes of the vocabulary are in an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fmbseg.config import DetectionSection
from fmbseg.models.text import TextEmbeddings, class_similarity

# Similarities that are held at once where only some are wanted; 128 MB in float32.
_AT_ONCE = 1 << 25


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
        best = best_similarity(dense, text)
    present = (
        votes >= section.min_votes if section.rule == "votes" else best >= section.min_similarity
    )
    classes = np.flatnonzero(present).astype(np.int64)
    return Detections(classes, votes[classes], best[classes])


def looked_for(text: TextEmbeddings, section: DetectionSection) -> TextEmbeddings:
    """The words that stage 1 looks for: of those that are one to CLIP the first class's alone.

    Between `road`, `path` and `runway`, of equal texts, chance would choose region by region. A
    vocabulary names the general class first, as published ones do.

    Args:
        text: embeddings of a vocabulary, its kinds included (`Vocabulary.widened`).
        section: `same_words` is read.
    """
    return text if section.same_words is None else text.told_apart(section.same_words)


def similarity_to_classes(
    vectors: npt.NDArray[np.floating],
    text: TextEmbeddings,
    classes: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float32]:
    """Cosine of unit vectors with every class of the vocabulary, or with some.

    Args:
        vectors: [..., D] unit vectors.
        text: embeddings of K classes; a class is as similar as its most similar query.
        classes: [c] the classes that are wanted; None: all.

    Returns:
        [..., K] or [..., c] float32.
    """
    device = text.queries.device
    x = torch.from_numpy(np.asarray(vectors, dtype=np.float32)).to(device)

    def compared(some: torch.Tensor) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = class_similarity(some, text).float().cpu().numpy()
        return found if classes is None else found[..., classes]

    if classes is None or x[..., 0].numel() * len(text) <= _AT_ONCE:
        return compared(x)
    rows = x.reshape(-1, x.shape[-1])
    parts = [compared(part) for part in torch.split(rows, max(1, _AT_ONCE // len(text)))]
    return np.concatenate(parts).reshape(*x.shape[:-1], len(classes))


def best_similarity(
    dense: npt.NDArray[np.floating], text: TextEmbeddings
) -> npt.NDArray[np.float32]:
    """[K] float32: cosine of each class with the patch of [h, w, D] most similar to it."""
    rows = dense.reshape(-1, dense.shape[-1])
    step = max(1, _AT_ONCE // len(text))
    parts = [
        similarity_to_classes(rows[start : start + step], text).max(axis=0)
        for start in range(0, len(rows), step)
    ]
    best: npt.NDArray[np.float32] = np.max(parts, axis=0)
    return best
