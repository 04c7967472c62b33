"""What the methods share that compare patches with words: one way from similarities to answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from PIL import Image

from fmbseg.config import Config, InferenceSection
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.evaluate.methods.predictor import Predictor, computation
from fmbseg.evaluate.refine.refiner import Refiner, refined, refuse_refined
from fmbseg.inference.decision import Decision, Found, confidence
from fmbseg.inference.dense import DenseInference
from fmbseg.inference.maps import Similarities
from fmbseg.inference.protocol import rule_record
from fmbseg.inference.smoothing import Smoothing
from fmbseg.inference.tiles import Tiled, Tiling
from fmbseg.inference.words import Words
from fmbseg.machine.device import DeviceChoice
from fmbseg.models.text import TextEmbeddings
from fmbseg.models.weights import weights_digest


class Comparison(Predictor, ABC):
    """A method that compares patches with words, refined as `evaluate.refine` says."""

    _config: Config
    _device: DeviceChoice
    _asked: InferenceSection
    _refiner: Refiner

    @abstractmethod
    def compare(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None,
        smoothing: Smoothing | None,
    ) -> Iterator[tuple[Similarities, Decision]]:
        """Similarities and labels before refinement, in the order of the images.

        Whole images of one size share batches, windows those of one image. Arguments as `segment`.
        """

    def segment(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
        smoothing: Smoothing | None = None,
    ) -> Iterator[Found]:
        """See `Predictor`."""
        found = self.compare(images, vocabulary, benchmark, smoothing)
        for similarities, decision in refined(self._refiner, images, found, vocabulary):
            yield Found(decision, partial(confidence, similarities, decision, self._asked))

    def _asked_record(self, templates: str) -> dict[str, Any]:
        """How the words are asked for, as `protocol` ends; templates of the vocabulary's words."""
        return {
            "templates": templates,
            **rule_record(self._asked),
            **computation(self._config, self._device.dtype),
            "refine": self._config.evaluate.refine,
            "weights": self._weights(),
        }

    @abstractmethod
    def _weights(self) -> dict[str, str]:
        """Name and sha256 of the weights of each model, for `protocol`."""


class WordComparison(Comparison):
    """A comparison by `DenseInference` with words in the space of its patches."""

    _dense: DenseInference
    _words: Words

    def text(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """The words, in the space that the patches are compared in."""
        return self._words.of(vocabulary)

    def compare(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None,
        smoothing: Smoothing | None,
    ) -> Iterator[tuple[Similarities, Decision]]:
        """See `Comparison`."""
        text = self.text(vocabulary)
        return self._dense.segment(images, vocabulary, text, benchmark, smoothing)

    def tiled(self, image: Image.Image, vocabulary: Vocabulary, tiling: Tiling) -> Tiled:
        """See `Predictor`."""
        refuse_refined(self._refiner)
        return self._dense.tiled(image, vocabulary, self.text(vocabulary), tiling)

    @property
    @abstractmethod
    def _models(self) -> tuple[str, ...]:
        """Names of the models it needs, those of its refinement last."""

    def _weights(self) -> dict[str, str]:
        return {name: weights_digest(name) for name in self._models}
