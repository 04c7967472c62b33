"""A trained head over the frozen encoder (stage 2): the method itself, and its oracle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import CheckpointError
from fmbseg.evaluate.methods.predictor import computation
from fmbseg.evaluate.refine.refiner import load_refiner, refined, refuse_refined
from fmbseg.inference.decision import Decision, Found, confidence
from fmbseg.inference.protocol import rule_record
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.inference.smoothing import Smoothing
from fmbseg.inference.tiles import Tiled, Tiling
from fmbseg.models.weights import weights_digest


class Aligned:
    """What `load_segmenter` loads, asked as the configuration says.

    Args:
        config: all sections.
        checkpoint: folder of the head.
        encodings: where embeddings of vocabularies are kept; the encoder is light.
    """

    def __init__(
        self, config: Config, checkpoint: Path | None, encodings: Path | None = None
    ) -> None:
        if checkpoint is None:
            raise CheckpointError("no checkpoint: give the folder of a trained head")
        section = config.evaluate
        self._config = config
        self._segmenter = load_segmenter(
            checkpoint,
            section,
            config.run,
            batch_size=section.batch_size,
            text_cache=encodings,
        )
        self._refiner = load_refiner(config, encodings)
        self.checkpoint_sha256: str | None = self._segmenter.checkpoint.sha256

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
        section = self._segmenter.inference
        found = self._segmenter.segment(images, vocabulary, benchmark, smoothing)
        for similarities, decision in refined(self._refiner, images, found, vocabulary):
            yield Found(decision, partial(confidence, similarities, decision, section))

    def tiled(self, image: Image.Image, vocabulary: Vocabulary, tiling: Tiling) -> Tiled:
        """See `Predictor`."""
        refuse_refined(self._refiner)
        return self._segmenter.tiled(image, vocabulary, tiling)

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        segmenter = self._segmenter
        info = segmenter.checkpoint.info
        return {
            "encoder": info.encoder.name,
            "clip": info.clip.name,
            **segmenter.dense(vocabulary).protocol.record(),
            "shifts": segmenter.inference.shifts,
            "trained_on": [words.name for words in info.vocabularies],
            "projection": info.vocabularies[segmenter.projection(vocabulary)].name,
            "templates": vocabulary.templates or info.templates,
            **rule_record(segmenter.inference),
            **computation(self._config, segmenter.device.dtype),
            "refine": self._config.evaluate.refine,
            "weights": {
                **{each.name: each.sha256 for each in (info.encoder, info.clip)},
                **{name: weights_digest(name) for name in self._refiner.models},
            },
        }
