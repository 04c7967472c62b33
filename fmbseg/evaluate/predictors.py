"""What can be scored: the aligned encoder, dense CLIP alone, and stage 1's own labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.device import choose_device
from fmbseg.errors import ConfigError
from fmbseg.evaluate.results import METHODS
from fmbseg.models.clip import ClipModel, load_clip
from fmbseg.models.sam import load_sam
from fmbseg.models.text import TextEmbeddings, class_similarity
from fmbseg.models.weights import weights_digest
from fmbseg.predict import label_map, load_segmenter
from fmbseg.pseudo.labels import UNLABELLED
from fmbseg.pseudo.pipeline import label_image

Labels = npt.NDArray[np.int64]


class Predictor(Protocol):
    """A method under test: images and a vocabulary in, label maps out. It never sees truth."""

    @property
    def checkpoint_sha256(self) -> str | None:
        """The sha256 of the trained head, hex; None for methods without training."""

    def predict_labels(self, images: Sequence[Image.Image], vocabulary: Vocabulary) -> list[Labels]:
        """Label RGB images of any sizes.

        Returns:
            For each image [H, W] int64 class indices; 255 where a pixel is left unlabelled.
        """

    def predict_label(self, image: Image.Image, vocabulary: Vocabulary) -> Labels:
        """Label one image; see `predict_labels`."""

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """What the labels depend on, for the result file: JSON values."""


class Aligned:
    """A trained head over the frozen encoder (stage 2): the method itself, and its oracle."""

    def __init__(self, checkpoint: Path, config: Config) -> None:
        self._segmenter = load_segmenter(checkpoint, config.evaluate, config.run)
        self._config = config
        self.checkpoint_sha256: str | None = self._segmenter.checkpoint.sha256

    def predict_labels(self, images: Sequence[Image.Image], vocabulary: Vocabulary) -> list[Labels]:
        """See `Predictor`; images of one size share batches."""
        found = self._segmenter.similarities(images, self._segmenter.text(vocabulary))
        return [
            _decide(similarity, image, vocabulary, self._config)
            for similarity, image in zip(found, images, strict=True)
        ]

    def predict_label(self, image: Image.Image, vocabulary: Vocabulary) -> Labels:
        """See `Predictor`."""
        return self.predict_labels([image], vocabulary)[0]

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        info = self._segmenter.checkpoint.info
        return {
            "encoder": info.encoder.name,
            "clip": info.clip.name,
            "short_side": self._config.evaluate.short_side,
            "templates": vocabulary.templates or info.templates,
            **_decision(self._config),
            **_computation(self._config, self._segmenter.device.dtype),
            "weights": {each.name: each.sha256 for each in (info.encoder, info.clip)},
        }


class MaskClip:
    """Dense CLIP features against the text, no training (MaskCLIP).

    The windows of the section `clip`, over the image resized to `evaluate.short_side`; upsampling
    and background rule are those of the aligned encoder.
    """

    checkpoint_sha256: str | None = None

    def __init__(self, config: Config) -> None:
        self._device = choose_device(config.run)
        self._config = config
        self._section = config.clip.model_copy(update={"short_side": config.evaluate.short_side})
        self._clip = load_clip(config.clip.model, self._device.device, self._device.dtype)
        self._texts = _Texts(self._clip, config.clip.templates)

    def predict_labels(self, images: Sequence[Image.Image], vocabulary: Vocabulary) -> list[Labels]:
        """See `Predictor`; the windows of one image make batches already."""
        return [self.predict_label(image, vocabulary) for image in images]

    @torch.no_grad()
    def predict_label(self, image: Image.Image, vocabulary: Vocabulary) -> Labels:
        """See `Predictor`."""
        encoding = self._clip.encode_image_windows(image, self._section)
        dense = torch.from_numpy(encoding.dense).to(self._device.device).float()
        similarity = class_similarity(dense, self._texts.of(vocabulary))
        return _decide(similarity.permute(2, 0, 1).contiguous(), image, vocabulary, self._config)

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        section = self._section
        return {
            "clip": section.model,
            "short_side": section.short_side,
            "window": section.window,
            "stride": section.stride,
            "dense": section.dense,
            "templates": vocabulary.templates or section.templates,
            **_decision(self._config),
            **_computation(self._config, self._device.dtype),
            "weights": {section.model: weights_digest(section.model)},
        }


class PseudoLabels:
    """Stage 1's labels themselves, made with the benchmark's vocabulary.

    Where a vocabulary has a background, which means "none of the others", unlabelled pixels are
    background; elsewhere they stay unlabelled, and so are misses.
    """

    checkpoint_sha256: str | None = None

    def __init__(self, config: Config) -> None:
        self._device = choose_device(config.run)
        self._config = config
        self._clip = load_clip(config.clip.model, self._device.device, self._device.dtype)
        self._sam = load_sam(config.sam.model, self._device.device, self._device.dtype)
        self._texts = _Texts(self._clip, config.clip.templates)

    def predict_labels(self, images: Sequence[Image.Image], vocabulary: Vocabulary) -> list[Labels]:
        """See `Predictor`; in stage 1 images never share a batch."""
        return [self.predict_label(image, vocabulary) for image in images]

    def predict_label(self, image: Image.Image, vocabulary: Vocabulary) -> Labels:
        """See `Predictor`."""
        text = self._texts.of(vocabulary)
        found = label_image(image, self._clip, self._sam, text, self._config)
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
            "clip": clip.model,
            "sam": sam.model,
            "short_side": clip.short_side,
            "window": clip.window,
            "stride": clip.stride,
            "dense": clip.dense,
            "templates": vocabulary.templates or clip.templates,
            **{name: getattr(config, name).model_dump() for name in sections},
            "background_rule": "where the vocabulary has a background: pixels under no mask",
            **_computation(config, self._device.dtype),
            "weights": {name: weights_digest(name) for name in (clip.model, sam.model)},
        }


def load_predictor(method: str, config: Config, checkpoint: Path) -> Predictor:
    """Load the models of a method.

    Args:
        method: one of `METHODS`.
        config: all sections.
        checkpoint: folder of a trained head; read by fmbseg and oracle only.

    Raises:
        ConfigError: no such method.
        CheckpointError: the head is missing or damaged, or was trained with other weights.
        WeightsError: the weights of a model are missing or damaged.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    if method == "maskclip":
        return MaskClip(config)
    if method == "pseudo":
        return PseudoLabels(config)
    return Aligned(checkpoint, config)


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


def _decide(
    similarity: torch.Tensor, image: Image.Image, vocabulary: Vocabulary, config: Config
) -> Labels:
    label = label_map(
        similarity,
        (image.height, image.width),
        vocabulary.background,
        config.evaluate.logit_scale,
        config.evaluate.background_threshold,
    )
    decided: Labels = label.cpu().numpy()
    return decided


def _decision(config: Config) -> dict[str, Any]:
    return {
        "upsampling": "bilinear to the original size",
        "logit_scale": config.evaluate.logit_scale,
        "background_threshold": config.evaluate.background_threshold,
        "background_rule": "where the vocabulary has a background: "
        "highest softmax(logit_scale * similarity) below background_threshold",
    }


def _computation(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    # Sums depend on both. The device's name stays out: results name no machine.
    return {"threads": config.run.threads, "dtype": str(dtype).removeprefix("torch.")}
