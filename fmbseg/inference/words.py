"""Vocabularies in CLIP's text space, remembered: they are asked for again with every image."""

from __future__ import annotations

from functools import lru_cache

from fmbseg.data.vocabulary import Vocabulary
from fmbseg.models.clip import ClipModel
from fmbseg.models.text import TextEmbeddings


class Words:
    """Text embeddings of the last few vocabularies.

    Args:
        clip: into whose text space they go.
        templates: prompt templates of vocabularies that have none of their own.
    """

    def __init__(self, clip: ClipModel, templates: str) -> None:

        @lru_cache(maxsize=8)
        def of(vocabulary: Vocabulary) -> TextEmbeddings:
            return clip.text_embeddings(vocabulary, vocabulary.templates or templates)

        self.of = of
