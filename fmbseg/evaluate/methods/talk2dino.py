"""CLIP's texts mapped into the frozen encoder's space (Talk2DINO); the map alone is trained."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import CheckpointError
from fmbseg.evaluate.methods.encoder_peer import EncoderPeer
from fmbseg.evaluate.text_map import load_text_map
from fmbseg.models.text import TextEmbeddings


class Talk2Dino(EncoderPeer):
    """Cosines of the encoder's own patches with mapped texts; see `fmbseg.evaluate.text_map`.

    The cleaning of backgrounds by the encoder's attention is left out: the background rule is that
    of all methods here.

    Args:
        config: all sections.
        checkpoint: folder of the map.
        encodings: see `load_predictor`.

    Raises:
        CheckpointError, StoreError: as `load_text_map`.
    """

    def __init__(
        self, config: Config, checkpoint: Path | None = None, encodings: Path | None = None
    ) -> None:
        super().__init__(config, encodings)
        if checkpoint is None:
            raise CheckpointError("no map of texts: run `fmbseg run talk2dino`")
        trained = load_text_map(checkpoint, config)
        self._text_map = trained.text_map.to(self._device.device)
        self.checkpoint_sha256 = trained.sha256
        self._trained_on = list(trained.vocabularies)
        self._mapped = lru_cache(maxsize=8)(self._map)

    def align(self, features: Tensor) -> Tensor:
        """See `EncoderPeer`; the space is the encoder's own."""
        return F.normalize(features.float(), dim=-1)

    def text(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """See `WordComparison`."""
        return self._mapped(vocabulary)

    def _map(self, vocabulary: Vocabulary) -> TextEmbeddings:
        text = self._words.of(vocabulary)
        # A query is the mean over the templates, which is mapped then, as published.
        queries, anchors = self._text_map(text.queries), self._text_map(text.anchors)
        return replace(text, queries=queries, anchors=anchors)

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        return super().protocol(vocabulary) | {"trained_on": self._trained_on}
