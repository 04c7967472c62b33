"""Dense CLIP features against the text, no training (MaskCLIP)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fmbseg.config import Config, Dense
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.evaluate.methods.predictor import computation
from fmbseg.evaluate.refine.refiner import load_refiner, refined, refuse_refined
from fmbseg.inference.decision import Decision, Found, confidence
from fmbseg.inference.dense import DenseInference
from fmbseg.inference.protocol import rule_record
from fmbseg.inference.sliding import Pixels, fitted
from fmbseg.inference.smoothing import Smoothing
from fmbseg.inference.tiles import Tiled, Tiling
from fmbseg.inference.words import Words
from fmbseg.machine.device import choose_device
from fmbseg.models.weights import weights_digest
from fmbseg.pseudo.encodings import ClipEncodings, pixels_digest


class MaskClip:
    """A `PatchEmbedder` of CLIP's own patches, asked as the aligned encoder is.

    Stage 1 goes its own way through the last block (`clip.dense`); here the method's name says it.

    With the protocol `fmbseg` the windows are those of the section `clip`, over the image resized
    to `evaluate.short_side`, and their features are averaged. The other protocols' windows are
    resized to CLIP's own input where they differ from it.

    Args:
        config: all sections.
        checkpoint: not used, nothing is trained.
        encodings: see `load_predictor`.
    """

    checkpoint_sha256: str | None = None
    variant: Dense = "value"
    """The way of the patches through CLIP's last block."""

    def __init__(
        self, config: Config, checkpoint: Path | None = None, encodings: Path | None = None
    ) -> None:
        self._config = config
        self._device = choose_device(config.run)
        update = {"short_side": config.evaluate.short_side, "dense": self.variant}
        self._section = config.clip.model_copy(update=update)
        own = config.model_copy(update={"clip": self._section})
        self._encodings = ClipEncodings(own, encodings, self._device)
        self._words = Words(self._encodings.model, config.clip.templates)
        self._asked = config.evaluate.of_others
        self._dense = DenseInference(self, self._asked, config.clip.batch_size)
        self._refiner = load_refiner(config, encodings)

    def decide(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
    ) -> list[Decision]:
        """See `Predictor`; the windows of one image make batches already."""
        return [found.decision for found in self.segment(images, vocabulary, benchmark)]

    def segment(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
        smoothing: Smoothing | None = None,
    ) -> Iterator[Found]:
        """See `Predictor`."""
        text = self._words.of(vocabulary)
        found = self._dense.segment(images, vocabulary, text, benchmark, smoothing)
        for similarities, decision in refined(self._refiner, images, found, vocabulary):
            yield Found(decision, partial(confidence, similarities, decision, self._asked))

    def tiled(self, image: Image.Image, vocabulary: Vocabulary, tiling: Tiling) -> Tiled:
        """See `Predictor`."""
        refuse_refined(self._refiner)
        return self._dense.tiled(image, vocabulary, self._words.of(vocabulary), tiling)

    def whole(self, images: Sequence[Image.Image]) -> Iterator[tuple[Sequence[int], Tensor]]:
        """See `PatchEmbedder`; features stitched over windows."""
        for index, image in enumerate(images):
            encoding = self._encodings.encode_image(image, pixels_digest(image))
            dense = torch.from_numpy(encoding.dense).to(self._device.device).float()
            yield [index], dense[None]

    def windows(self, crops: Pixels) -> Tensor:
        """See `PatchEmbedder`."""
        clip = self._encodings.model
        crops = fitted(crops, clip.image_size, clip.image_size)
        return clip.encode_windows(crops, self._section.dense)[1]

    @property
    def _models(self) -> tuple[str, ...]:
        return (self._section.model, *self._refiner.models)

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        section, protocol = self._section, self._dense.protocol
        record = protocol.record()
        if protocol.sizes.window is None:
            record |= {
                "windows": "averaged features",
                "window": section.window,
                "stride": section.stride,
            }
        return {
            "clip": section.model,
            **record,
            "model_input": self._encodings.model.image_size,
            "dense": section.dense,
            "templates": vocabulary.templates or section.templates,
            **rule_record(self._asked),
            **computation(self._config, self._device.dtype),
            "refine": self._config.evaluate.refine,
            "weights": {name: weights_digest(name) for name in self._models},
        }
