"""A vocabulary in CLIP's text space, and how similar unit vectors are to its classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

SAME_TO_CLIP = 0.95
"""Cosine of two words' texts from which on they count as one."""
_WORDS_AT_ONCE = 256  # that are held beside all others: of 20,000 in 20 MB


@dataclass(frozen=True)
class TextEmbeddings:
    """A vocabulary of K classes in CLIP's text space, float32 unit vectors.

    Attributes:
        queries: [Q, D], one row for each word of each class, synonyms included; a class may have
            none (`told_apart`).
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

    @cached_property
    def word_each(self) -> bool:
        """Whether each class has one word."""
        each = torch.arange(len(self), device=self.query_class.device)
        return torch.equal(self.query_class, each)

    def of(self, classes: Tensor) -> TextEmbeddings:
        """Those of some classes, [n] int64 ascending, as a vocabulary of their own."""
        kept = torch.isin(self.query_class, classes)
        places = torch.searchsorted(classes, self.query_class[kept])
        return TextEmbeddings(self.queries[kept], places, self.anchors[classes])

    @cached_property
    def worded(self) -> Tensor:
        """The classes that have a word, [n] int64 ascending."""
        classes: Tensor = torch.unique(self.query_class)
        return classes

    def only(self, classes: Tensor) -> TextEmbeddings:
        """The same K classes, of which but some, [n] int64, have no word."""
        kept = torch.isin(self.query_class, classes)
        return replace(self, queries=self.queries[kept], query_class=self.query_class[kept])

    def told_apart(self, same: float) -> TextEmbeddings:
        """Without the words that are one with a word of an earlier class, which they are left to.

        Args:
            same: the cosine from which on two words are one.

        Returns:
            The same K classes and anchors. To a class without a word of its own nothing is
            similar, see `class_similarity`.
        """
        words, owners = self.queries, self.query_class
        kept = torch.ones_like(owners, dtype=torch.bool)
        for start in range(0, len(words), _WORDS_AT_ONCE):
            part = slice(start, start + _WORDS_AT_ONCE)
            earlier = owners < owners[part, None]
            kept[part] = ~((words[part] @ words.T >= same) & earlier).any(dim=1)
        return replace(self, queries=words[kept], query_class=owners[kept])


def class_similarity(x: Tensor, text: TextEmbeddings) -> Tensor:
    """Cosine of unit vectors with each class: that of the class's most similar query.

    Args:
        x: [..., D] unit vectors.
        text: embeddings of K classes, on the device of `x`.

    Returns:
        [..., K], dtype of `x`; -inf for a class without a word.
    """
    similarity = x @ text.queries.to(x.dtype).T
    if text.word_each:
        return similarity
    index = text.query_class.expand(similarity.shape)
    classes = similarity.new_full((*similarity.shape[:-1], len(text)), float("-inf"))
    return classes.scatter_reduce(-1, index, similarity, "amax")
