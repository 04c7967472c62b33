"""A trained head over the frozen encoder (stage 2): the method itself, and its oracle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import CheckpointError
from fmbseg.evaluate.methods.comparison import Comparison
from fmbseg.evaluate.refine.refiner import load_refiner, refuse_refined
from fmbseg.inference.decision import Decision
from fmbseg.inference.maps import Similarities
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.inference.smoothing import Smoothing
from fmbseg.inference.tiles import Tiled, Tiling
from fmbseg.models.weights import weights_digest


class Aligned(Comparison):
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
        self._asked, self._device = self._segmenter.inference, self._segmenter.device
        self._refiner = load_refiner(config, encodings)
        self.checkpoint_sha256 = self._segmenter.checkpoint.sha256

    def compare(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None,
        smoothing: Smoothing | None,
    ) -> Iterator[tuple[Similarities, Decision]]:
        """See `Comparison`."""
        return self._segmenter.segment(images, vocabulary, benchmark, smoothing)

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
            **self._asked_record(vocabulary.templates or info.templates),
        }

    def _weights(self) -> dict[str, str]:
        info = self._segmenter.checkpoint.info
        own = {each.name: each.sha256 for each in (info.encoder, info.clip)}
        return own | {name: weights_digest(name) for name in self._refiner.models}
