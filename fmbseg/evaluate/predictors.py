"""What can be scored: the aligned encoder, dense CLIP alone, and stage 1's own labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmbseg.config import Config
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import ConfigError
from fmbseg.evaluate.results import METHODS
from fmbseg.inference.decision import Decision, Labels, decide
from fmbseg.inference.protocol import BACKGROUND_RULES, Sizes, protocol_of
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.inference.sliding import Pixels, fitted, scaled_image, window_logits
from fmbseg.machine.device import choose_device
from fmbseg.models.clip import ClipModel
from fmbseg.models.text import TextEmbeddings, class_similarity
from fmbseg.models.weights import weights_digest
from fmbseg.pseudo.encodings import ClipEncodings, ImageEncoder, pixels_digest
from fmbseg.pseudo.pipeline import label_image

__all__ = ["Aligned", "Decision", "Labels", "MaskClip", "Predictor", "PseudoLabels"]
__all__ += ["load_predictor"]


class Predictor(Protocol):
    """A method under test: images and a vocabulary in, label maps out. It never sees truth."""

    @property
    def checkpoint_sha256(self) -> str | None:
        """The sha256 of the trained head, hex; None for methods without training."""

    def decide(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
    ) -> list[Decision]:
        """Label RGB images of any sizes.

        Args:
            images: RGB.
            vocabulary: K classes.
            benchmark: its name, where the protocol has sizes of its own for it.
        """

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """What the labels depend on, for the result file: JSON values."""


class Aligned:
    """A trained head over the frozen encoder (stage 2): the method itself, and its oracle."""

    def __init__(self, checkpoint: Path, config: Config, encodings: Path | None = None) -> None:
        self._protocol = protocol_of(config.evaluate)
        self._segmenter = load_segmenter(
            checkpoint, config.evaluate, config.run, text_cache=encodings
        )
        self._config = config
        self.checkpoint_sha256: str | None = self._segmenter.checkpoint.sha256

    def decide(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
    ) -> list[Decision]:
        """See `Predictor`; whole images of one size share batches, windows those of one image."""
        text = self._segmenter.text(vocabulary)
        sizes = self._protocol.sizes_for(benchmark)
        if sizes.window is None:
            maps, classes = self._segmenter.similarities(images, text), _class_of_maps(text)
        else:
            maps = [self._slide(image, sizes, text) for image in images]
            classes = text.query_class
        return [
            _decide(each, classes, image, vocabulary, self._config)
            for each, image in zip(maps, images, strict=True)
        ]

    @torch.no_grad()
    def _slide(self, image: Image.Image, sizes: Sizes, text: TextEmbeddings) -> Tensor:
        patch = self._segmenter.patch_size

        def score(crops: Pixels) -> Tensor:
            height, width = (max(1, int(n / patch + 0.5)) * patch for n in crops.shape[1:3])
            return _word_logits(self._segmenter.embed(fitted(crops, height, width)), text)

        pixels = scaled_image(image, sizes.short_side, self._protocol.long_side)
        return window_logits(pixels, sizes, score, self._config.evaluate.batch_size)

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        info = self._segmenter.checkpoint.info
        return {
            "encoder": info.encoder.name,
            "clip": info.clip.name,
            **self._protocol.record(),
            "templates": vocabulary.templates or info.templates,
            **_decision(self._config),
            **_computation(self._config, self._segmenter.device.dtype),
            "weights": {each.name: each.sha256 for each in (info.encoder, info.clip)},
        }


class MaskClip:
    """Dense CLIP features against the text, no training (MaskCLIP).

    Upsampling and background rule are those of the aligned encoder. With the protocol `fmbseg`
    the windows are those of the section `clip`, over the image resized to `evaluate.short_side`,
    and their features are averaged. The other protocols' windows are resized to CLIP's own input
    where they differ from it.

    Args:
        config: all sections.
        encodings: folder where encodings are kept for other benchmarks that have the same
            pictures, and for the next run; None: nothing is kept.
    """

    checkpoint_sha256: str | None = None

    def __init__(self, config: Config, encodings: Path | None = None) -> None:
        self._device = choose_device(config.run)
        self._config = config
        self._protocol = protocol_of(config.evaluate)
        self._section = config.clip.model_copy(update={"short_side": config.evaluate.short_side})
        own = config.model_copy(update={"clip": self._section})
        self._encodings = ClipEncodings(own, encodings, self._device)
        self._clip = self._encodings.model
        self._texts = _Texts(self._clip, config.clip.templates)

    @torch.no_grad()
    def decide(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
    ) -> list[Decision]:
        """See `Predictor`; the windows of one image make batches already."""
        text = self._texts.of(vocabulary)
        sizes = self._protocol.sizes_for(benchmark)
        decisions = []
        for image in images:
            if sizes.window is None:
                maps, classes = self._stitch(image, text), _class_of_maps(text)
            else:
                maps, classes = self._slide(image, sizes, text), text.query_class
            decisions.append(_decide(maps, classes, image, vocabulary, self._config))
        return decisions

    def _stitch(self, image: Image.Image, text: TextEmbeddings) -> Tensor:
        encoding = self._encodings.encode_image(image, pixels_digest(image))
        dense = torch.from_numpy(encoding.dense).to(self._device.device).float()
        return class_similarity(dense, text).permute(2, 0, 1).contiguous()

    def _slide(self, image: Image.Image, sizes: Sizes, text: TextEmbeddings) -> Tensor:
        side = self._clip.image_size

        def score(crops: Pixels) -> Tensor:
            windows = fitted(crops, side, side)
            _, dense = self._clip.encode_windows(windows, self._section.dense)
            return _word_logits(dense, text)

        pixels = scaled_image(image, sizes.short_side, self._protocol.long_side)
        return window_logits(pixels, sizes, score, self._section.batch_size)

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        section = self._section
        record = self._protocol.record()
        if self._protocol.sizes.window is None:
            record |= {
                "windows": "averaged features",
                "window": section.window,
                "stride": section.stride,
            }
        return {
            "clip": section.model,
            **record,
            "model_input": self._clip.image_size,
            "dense": section.dense,
            "templates": vocabulary.templates or section.templates,
            **_decision(self._config),
            **_computation(self._config, self._device.dtype),
            "weights": {section.model: weights_digest(section.model)},
        }


class PseudoLabels:
    """Stage 1's labels themselves, made with the benchmark's vocabulary and the windows of `clip`.

    Where a vocabulary has a background, which means "none of the others", unlabelled pixels are
    background; elsewhere they stay unlabelled, and so are misses.

    Args:
        config: all sections.
        encodings: as of `MaskClip`.
    """

    checkpoint_sha256: str | None = None

    def __init__(self, config: Config, encodings: Path | None = None) -> None:
        self._device = choose_device(config.run)
        self._config = config
        self._encoder = ImageEncoder(config, encodings, self._device)
        self._texts = _Texts(self._encoder.clip.model, config.clip.templates)

    def decide(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
    ) -> list[Decision]:
        """See `Predictor`; in stage 1 images never share a batch."""
        return [Decision(self._label(image, vocabulary)) for image in images]

    def _label(self, image: Image.Image, vocabulary: Vocabulary) -> Labels:
        text = self._texts.of(vocabulary)
        encodings = self._encoder.encode(image)
        found = label_image(encodings, self._encoder.sam.model, text, self._config)
        label = found.label.astype(np.int64)
        if vocabulary.background is not None:
            label[label == UNLABELLED] = vocabulary.background
        return label

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
            **_computation(config, self._device.dtype),
            "weights": {name: weights_digest(name) for name in (clip.model, sam.model)},
        }


def load_predictor(
    method: str, config: Config, checkpoint: Path, encodings: Path | None = None
) -> Predictor:
    """Load the models of a method.

    Args:
        method: one of `METHODS`.
        config: all sections.
        checkpoint: folder of a trained head; read by fmbseg and oracle only.
        encodings: folder where maskclip and pseudo keep what does not depend on the classes, and
            all methods embeddings of vocabularies; None: nothing is kept.

    Raises:
        ConfigError: no such method.
        CheckpointError: the head is missing or damaged, or was trained with other weights.
        WeightsError: the weights of a model are missing or damaged.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    if method == "maskclip":
        return MaskClip(config, encodings)
    if method == "pseudo":
        return PseudoLabels(config, encodings)
    return Aligned(checkpoint, config, encodings)


class _Texts:
    """Text embeddings of the last vocabulary asked for."""

    def __init__(self, clip: ClipModel, templates: str) -> None:
        self._clip, self._templates = clip, templates
        self._digest: str | None = None
        self._text: TextEmbeddings | None = None

    def of(self, vocabulary: Vocabulary) -> TextEmbeddings:
        if self._text is None or self._digest != vocabulary.digest:
            templates = vocabulary.templates or self._templates
            self._text = self._clip.text_embeddings(vocabulary, templates)
            self._digest = vocabulary.digest
        return self._text


def _class_of_maps(text: TextEmbeddings) -> Tensor:
    return torch.arange(len(text), device=text.queries.device)


def _word_logits(x: Tensor, text: TextEmbeddings) -> Tensor:
    """Cosines of unit vectors [N, h, w, D] with every word of the vocabulary: [N, Q, h, w]."""
    return (x @ text.queries.to(x.dtype).T).permute(0, 3, 1, 2).contiguous()


def _decide(
    maps: Tensor, classes: Tensor, image: Image.Image, vocabulary: Vocabulary, config: Config
) -> Decision:
    section = config.evaluate
    rule = protocol_of(section).background_rule
    size = image.height, image.width
    return decide(maps, classes, size, vocabulary.background, rule, section)


def _decision(config: Config) -> dict[str, Any]:
    section = config.evaluate
    rule = protocol_of(section).background_rule
    values: dict[str, dict[str, Any]] = {
        "probability": {
            "logit_scale": section.logit_scale,
            "background_threshold": section.background_threshold,
        },
        "constant": {"background_score": section.background_score},
        "words": {},
    }
    return {
        **values[rule],
        "background_rule": f"where the vocabulary has a background: {BACKGROUND_RULES[rule]}",
    }


def _computation(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    # Sums depend on both. The device's name stays out: results name no machine.
    return {"threads": config.run.threads, "dtype": str(dtype).removeprefix("torch.")}
