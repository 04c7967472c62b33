"""Vocabularies in CLIP's text space, remembered: they are asked for again with every image."""

from __future__ import annotations

from collections import OrderedDict

from fmbseg.data.vocabulary import Vocabulary
from fmbseg.models.clip import ClipModel
from fmbseg.models.text import TextEmbeddings

_KEPT = 8


class Words:
    """Text embeddings of the last few vocabularies.

    Args:
        clip: into whose text space they go.
        templates: prompt templates of vocabularies that have none of their own.
    """

    def __init__(self, clip: ClipModel, templates: str) -> None:
        self._clip = clip
        self._templates = templates
        self._known: OrderedDict[str, TextEmbeddings] = OrderedDict()

    def of(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """The embeddings of a vocabulary."""
        key = vocabulary.digest
        if key not in self._known:
            templates = vocabulary.templates or self._templates
            self._known[key] = self._clip.text_embeddings(vocabulary, templates)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]
