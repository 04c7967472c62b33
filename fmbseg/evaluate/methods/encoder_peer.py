"""What peers share that ask the frozen encoder's patches, and neither CLIP's images nor SAM."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.evaluate.methods.comparison import WordComparison
from fmbseg.evaluate.refine.refiner import load_refiner
from fmbseg.inference.dense import DenseInference
from fmbseg.inference.encoder import AlignedEncoder
from fmbseg.inference.words import Words
from fmbseg.machine.device import choose_device
from fmbseg.models.backbone import load_backbone
from fmbseg.models.clip import load_clip


class EncoderPeer(WordComparison):
    """A method that compares the encoder's patches with words as a trained head's are.

    Args:
        config: all sections.
        encodings: see `load_predictor`.
    """

    def __init__(self, config: Config, encodings: Path | None = None) -> None:
        section = config.evaluate.of_others
        self._config = config
        self._asked = section
        self._device = choose_device(config.run)
        place = self._device.device, self._device.dtype
        clip = load_clip(config.clip.model, *place, text_cache=encodings)
        self._words = Words(clip, config.clip.templates)
        embedder = AlignedEncoder(
            load_backbone(config.features.encoder, *place),
            self.align,
            section.short_side,
            section.shifts,
            config.evaluate.batch_size,
            self._device,
        )
        self._dense = DenseInference(embedder, section, config.evaluate.batch_size)
        self._refiner = load_refiner(config, encodings)

    @abstractmethod
    def align(self, features: Tensor) -> Tensor:
        """Features [N, h, w, C] of the encoder -> unit vectors [N, h, w, D] beside the words."""

    @property
    def _models(self) -> tuple[str, ...]:
        return (self._config.features.encoder, self._config.clip.model, *self._refiner.models)

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        config = self._config
        return {
            "encoder": config.features.encoder,
            "clip": config.clip.model,
            **self._dense.protocol.record(),
            **self._asked_record(vocabulary.templates or config.clip.templates),
        }
