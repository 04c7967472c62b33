"""Stage 1's labels themselves, made with the benchmark's vocabulary and the windows of `clip`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import ConfigError
from fmbseg.evaluate.methods.predictor import Predictor, computation, no_tiles
from fmbseg.inference.decision import Decision, Found, Labels
from fmbseg.inference.smoothing import Smoothing
from fmbseg.inference.tiles import Tiled, Tiling
from fmbseg.inference.words import Words
from fmbseg.machine.device import choose_device
from fmbseg.models.weights import weights_digest
from fmbseg.pseudo.confidence import label_confidence
from fmbseg.pseudo.detection import looked_for
from fmbseg.pseudo.encodings import ImageEncoder
from fmbseg.pseudo.pipeline import label_image


class PseudoLabels(Predictor):
    """Where a vocabulary has a background, unlabelled pixels are background.

    It means "none of the others"; elsewhere they stay unlabelled, and so are misses.

    Args:
        config: all sections.
        checkpoint: not used, nothing is trained.
        encodings: see `load_predictor`.
    """

    def __init__(
        self, config: Config, checkpoint: Path | None = None, encodings: Path | None = None
    ) -> None:
        self._config = config
        self._device = choose_device(config.run)
        self._encoder = ImageEncoder(config, encodings, self._device)
        self._words = Words(self._encoder.clip.model, config.clip.templates)

    def segment(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
        smoothing: Smoothing | None = None,
    ) -> Iterator[Found]:
        """See `Predictor`; in stage 1 images never share a batch."""
        if smoothing is not None:
            raise ConfigError(
                "stage 1's masks have no similarities that could be smoothed over frames: leave "
                "out --smooth, or take another --method"
            )
        config = self._config
        text = looked_for(self._words.of(vocabulary.widened), config.detection)
        for image in images:
            encodings = self._encoder.encode(image)
            found = label_image(encodings, self._encoder.sam.model, text, config)
            label: Labels = found.label.astype(np.int64)
            if vocabulary.background is not None:
                label[label == vocabulary.unlabelled] = vocabulary.background
            sure = partial(
                label_confidence,
                found,
                encodings.clip.dense,
                text,
                config.label,
                config.evaluate.logit_scale,
            )
            yield Found(Decision(label), sure)

    def tiled(self, image: Image.Image, vocabulary: Vocabulary, tiling: Tiling) -> Tiled:
        """See `Predictor`."""
        raise no_tiles("stage 1")

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        config = self._config
        clip, sam = config.clip, config.sam
        sections = ("detection", "query", "masks", "label")
        return {
            "name": "stage 1",
            "clip": clip.model,
            "sam": sam.model,
            "short_side": clip.short_side,
            "window": clip.window,
            "stride": clip.stride,
            "dense": clip.dense,
            "windows": "those of the section clip: evaluate.protocol does not apply",
            "templates": vocabulary.templates or clip.templates,
            **{name: getattr(config, name).model_dump() for name in sections},
            "background_rule": "where the vocabulary has a background: pixels under no mask",
            **computation(config, self._device.dtype),
            "weights": {name: weights_digest(name) for name in (clip.model, sam.model)},
        }
