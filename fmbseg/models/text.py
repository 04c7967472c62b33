"""A vocabulary in CLIP's text space, and how similar unit vectors are to its classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SAME_TO_CLIP = 0.95
"""Cosine of two words' texts from which on they count as one."""


@dataclass(frozen=True)
class TextEmbeddings:
    """A vocabulary of K classes in CLIP's text space, float32 unit vectors.

    Attributes:
        queries: [Q, D], one row for each word of each class, synonyms included.
        query_class: [Q] int64, the class of each query.
        anchors: [K, D], normalised mean of a class's queries: the t_k of equations 1-4.
        least: [K] the classes' own thresholds, see `Vocabulary.thresholds`; None: there are none.
    """

    queries: Tensor
    query_class: Tensor
    anchors: Tensor
    least: tuple[float, ...] | None = None

    def __len__(self) -> int:
        """Number of classes K."""
        return len(self.anchors)

    def of(self, classes: Tensor) -> TextEmbeddings:
        """Those of some classes, [n] int64 ascending, as a vocabulary of their own."""
        kept = torch.isin(self.query_class, classes)
        places = torch.searchsorted(classes, self.query_class[kept])
        return TextEmbeddings(self.queries[kept], places, self.anchors[classes])


def class_similarity(x: Tensor, text: TextEmbeddings) -> Tensor:
    """Cosine of unit vectors with each class: that of the class's most similar query.

    Args:
        x: [..., D] unit vectors.
        text: embeddings of K classes, on the device of `x`.

    Returns:
        [..., K], dtype of `x`.
    """
    similarity = x @ text.queries.to(x.dtype).T
    if len(text.queries) == len(text):
        return similarity
    index = text.query_class.expand(similarity.shape)
    classes = similarity.new_full((*similarity.shape[:-1], len(text)), float("-inf"))
    return classes.scatter_reduce(-1, index, similarity, "amax")
