"""What can be scored: the aligned encoder, dense CLIP alone, and stage 1's own labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.device import choose_device
from fmbseg.models.clip import ClipModel, load_clip
from fmbseg.models.sam import load_sam
from fmbseg.models.text import TextEmbeddings, class_similarity
from fmbseg.predict import label_map, load_segmenter
from fmbseg.pseudo.pipeline import label_image

UNLABELLED = 255
METHODS = ("fmbseg", "maskclip", "pseudo", "oracle")


class Predictor(Protocol):
    """Labels images in the classes of a vocabulary.

    Attributes:
        protocol: the parameters a result depends on, for the result file.
        checkpoint_sha256: digest of the trained head; None for methods without training.
    """

    protocol: dict[str, Any]
    checkpoint_sha256: str | None

    def predict_label(self, image: Image.Image, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """[H, W] int64 class indices; 255 where the method leaves a pixel unlabelled."""
        ...


class Aligned:
    """A trained head over the frozen encoder: the method itself, and its oracle."""

    def __init__(self, checkpoint: Path, config: Config) -> None:
        self._segmenter = load_segmenter(checkpoint, config.evaluate, config.run)
        self.checkpoint_sha256: str | None = self._segmenter.checkpoint.sha256
        self.protocol = {
            **_inference(config),
            "short_side": config.evaluate.short_side,
            "templates": self._segmenter.checkpoint.info.templates,
            "encoder": self._segmenter.checkpoint.info.encoder.name,
        }

    def predict_label(self, image: Image.Image, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """See `Predictor`."""
        return self._segmenter.predict(image, vocabulary=vocabulary).label_map


class MaskClip:
    """Dense CLIP features against the text, no training (Zhou et al., 2022)."""

    checkpoint_sha256: str | None = None

    def __init__(self, config: Config) -> None:
        device = choose_device(config.run)
        self._config = config
        self._clip = load_clip(config.clip.model, device.device, device.dtype)
        self._texts = _Texts(self._clip, config.clip.templates)
        self.protocol = {**_inference(config), "clip": config.clip.model_dump()}

    @torch.no_grad()
    def predict_label(self, image: Image.Image, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """See `Predictor`."""
        dense = self._clip.encode_image_windows(image, self._config.clip).dense
        similarity = class_similarity(torch.from_numpy(dense).float(), self._texts.of(vocabulary))
        section = self._config.evaluate
        labels = label_map(
            similarity.permute(2, 0, 1).contiguous(),
            (image.height, image.width),
            vocabulary.background,
            section.logit_scale,
            section.background_threshold,
        )
        return labels.numpy()


class PseudoLabels:
    """Stage 1's labels themselves, made with the benchmark's vocabulary.

    Where a vocabulary has a background, unlabelled pixels are background; elsewhere they stay
    unlabelled, and so are misses.
    """

    checkpoint_sha256: str | None = None

    def __init__(self, config: Config) -> None:
        device = choose_device(config.run)
        self._config = config
        self._clip = load_clip(config.clip.model, device.device, device.dtype)
        self._sam = load_sam(config.sam.model, device.device, device.dtype)
        self._texts = _Texts(self._clip, config.clip.templates)
        names = ("clip", "detection", "query", "sam", "masks", "label")
        self.protocol = {name: getattr(config, name).model_dump() for name in names}

    def predict_label(self, image: Image.Image, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """See `Predictor`."""
        text = self._texts.of(vocabulary)
        found = label_image(image, self._clip, self._sam, text, self._config)
        label = found.label.astype(np.int64)
        if vocabulary.background is not None:
            label[label == UNLABELLED] = vocabulary.background
        return label


def load_predictor(method: str, config: Config, checkpoint: Path) -> Predictor:
    """A method by its name, one of METHODS; `checkpoint` is read by fmbseg and oracle only."""
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


def _inference(config: Config) -> dict[str, Any]:
    return {
        "logit_scale": config.evaluate.logit_scale,
        "background_threshold": config.evaluate.background_threshold,
        "upsampling": "bilinear to the original size",
    }
