"""What peers share that ask the frozen encoder's patches, and neither CLIP's images nor SAM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.evaluate.methods.predictor import computation
from fmbseg.evaluate.refine.refiner import load_refiner, refined, refuse_refined
from fmbseg.inference.decision import Decision, Found, confidence
from fmbseg.inference.dense import DenseInference
from fmbseg.inference.encoder import AlignedEncoder
from fmbseg.inference.protocol import rule_record
from fmbseg.inference.smoothing import Smoothing
from fmbseg.inference.tiles import Tiled, Tiling
from fmbseg.inference.words import Words
from fmbseg.machine.device import choose_device
from fmbseg.models.backbone import load_backbone
from fmbseg.models.clip import load_clip
from fmbseg.models.text import TextEmbeddings
from fmbseg.models.weights import weights_digest


class EncoderPeer(ABC):
    """A method that compares the encoder's patches with words as a trained head's are.

    Args:
        config: all sections.
        encodings: see `load_predictor`.
    """

    checkpoint_sha256: str | None = None

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

    def text(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """The words, in the space that the patches are compared in."""
        return self._words.of(vocabulary)

    def decide(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
    ) -> list[Decision]:
        """See `Predictor`; whole images of one size share batches, windows those of one image."""
        return [found.decision for found in self.segment(images, vocabulary, benchmark)]

    def segment(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
        smoothing: Smoothing | None = None,
    ) -> Iterator[Found]:
        """See `Predictor`."""
        text = self.text(vocabulary)
        found = self._dense.segment(images, vocabulary, text, benchmark, smoothing)
        for similarities, decision in refined(self._refiner, images, found, vocabulary):
            yield Found(decision, partial(confidence, similarities, decision, self._asked))

    def tiled(self, image: Image.Image, vocabulary: Vocabulary, tiling: Tiling) -> Tiled:
        """See `Predictor`."""
        refuse_refined(self._refiner)
        return self._dense.tiled(image, vocabulary, self.text(vocabulary), tiling)

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        config = self._config
        encoder, clip = config.features.encoder, config.clip.model
        return {
            "encoder": encoder,
            "clip": clip,
            **self._dense.protocol.record(),
            "templates": vocabulary.templates or config.clip.templates,
            **rule_record(self._asked),
            **computation(config, self._device.dtype),
            "refine": config.evaluate.refine,
            "weights": {
                name: weights_digest(name) for name in (encoder, clip, *self._refiner.models)
            },
        }
