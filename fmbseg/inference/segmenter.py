"""Segmentation of images into any classes with a trained head: no CLIP image tower, no SAM.

segmenter = load_segmenter("data/align")
result = segmenter.predict("photo.jpg", classes=["dog", "cat", "grass"])
result.label_map  # [H, W] int64, indices into result.classes
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fmbseg.align.checkpoint import Checkpoint, load_checkpoint, require_weights
from fmbseg.align.features import resize_for_encoder
from fmbseg.config import EvaluateSection, RunSection
from fmbseg.data.images import read_image
from fmbseg.data.vocabulary import Vocabulary, load_vocabulary, vocabulary_from_names
from fmbseg.errors import DataError, VocabularyError
from fmbseg.machine.device import DeviceChoice, choose_device, with_oom_backoff
from fmbseg.models.backbone import Backbone, load_backbone
from fmbseg.models.clip import ClipModel, load_clip
from fmbseg.models.text import TextEmbeddings, class_similarity

ImageInput = Image.Image | npt.NDArray[np.uint8] | Path | str

_VOCABULARIES_KEPT = 8
# Scores at full size held at once when labels are made: 64 MB in float32.
_BAND_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Segmentation:
    """The result for one image.

    Attributes:
        label_map: [H, W] int64 at the image's own size, indices into `classes`.
        classes: names of the K classes.
        similarity: [K, h, w] float32, cosine of each patch with each class.
    """

    label_map: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    similarity: npt.NDArray[np.float32]

    @cached_property
    def scores(self) -> npt.NDArray[np.float32]:
        """[K, H, W] float32, cosines at the image's own size.

        Made when first asked for: with many classes and a large photo they take gigabytes. Their
        argmax is `label_map`, but for the background where the vocabulary has one.
        """
        height, width = self.label_map.shape
        maps = torch.from_numpy(self.similarity)
        scores: npt.NDArray[np.float32] = _upsample(maps, (height, width), 0, height).numpy()
        return scores


class Segmenter:
    """Segments images into the classes of any vocabulary. Use `load_segmenter`.

    Attributes:
        checkpoint: the head and its record.
        section: the inference protocol.
        device: where it computes.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        backbone: Backbone,
        clip: ClipModel,
        section: EvaluateSection,
        device: DeviceChoice,
    ) -> None:
        self.checkpoint = checkpoint
        self.section = section
        self.device = device
        self._backbone = backbone
        self._clip = clip
        self._head = checkpoint.head.to(device.device)
        self._text: OrderedDict[str, TextEmbeddings] = OrderedDict()

    def predict(
        self,
        image: ImageInput,
        classes: Sequence[str] | None = None,
        vocabulary: Vocabulary | Path | str | None = None,
    ) -> Segmentation:
        """Segment one image.

        Args:
            image: a PIL image; an array [H, W, 3] uint8 RGB (also grey [H, W] or RGBA); or a file,
                whose EXIF orientation is applied.
            classes: names of the classes; or
            vocabulary: a vocabulary, its name or its YAML file. None of both: the classes the head
                was trained on.

        Raises:
            DataError: the image cannot be read, or is an array of another kind.
            VocabularyError: both are given, or a class list is empty or has duplicates.
        """
        chosen = self._vocabulary(classes, vocabulary)
        picture = _as_image(image)
        similarity = self.similarities([picture], self.text(chosen))[0]
        labels = label_map(
            similarity,
            (picture.height, picture.width),
            chosen.background,
            self.section.logit_scale,
            self.section.background_threshold,
        )
        return Segmentation(labels.cpu().numpy(), chosen.names, similarity.cpu().numpy())

    def text(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """A vocabulary in the text space; the last few are kept.

        Prompt templates: the vocabulary's own, else those of the checkpoint.
        """
        key = vocabulary.digest
        if key not in self._text:
            templates = vocabulary.templates or self.checkpoint.info.templates
            self._text[key] = self._clip.text_embeddings(vocabulary, templates)
            if len(self._text) > _VOCABULARIES_KEPT:
                self._text.popitem(last=False)
        self._text.move_to_end(key)
        return self._text[key]

    @torch.no_grad()
    def similarities(self, images: Sequence[Image.Image], text: TextEmbeddings) -> list[Tensor]:
        """Cosines of the patches of several images with K classes.

        Images of one size after resizing share batches of `section.batch_size`.

        Args:
            images: RGB.
            text: see `text`.

        Returns:
            For each image [K, h, w] float32 on the patch grid, on the segmenter's device.
        """
        pixels = [resize_for_encoder(i, self.section.short_side, self._backbone) for i in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, array in enumerate(pixels):
            groups.setdefault(array.shape, []).append(index)
        found: dict[int, Tensor] = {}
        for members in groups.values():
            for start in range(0, len(members), self.section.batch_size):
                part = members[start : start + self.section.batch_size]
                batch = np.stack([pixels[index] for index in part])
                found.update(zip(part, self._similarity(batch, text), strict=True))
        return [found[index] for index in range(len(images))]

    @property
    def patch_size(self) -> int:
        """Of the encoder, pixels."""
        return self._backbone.patch_size

    def _similarity(self, pixels: npt.NDArray[np.uint8], text: TextEmbeddings) -> Tensor:
        return class_similarity(self.embed(pixels), text).permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def embed(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Patches of equally large images in text space.

        Args:
            pixels: [N, H, W, 3] uint8 RGB, H and W multiples of `patch_size`.

        Returns:
            [N, h, w, D] unit vectors on the segmenter's device.
        """
        # As in training: float16 is for the encoder only.
        mixed = self.device.dtype == torch.bfloat16

        def in_batches(batch: int) -> Tensor:
            parts = []
            for start in range(0, len(pixels), batch):
                features = self._backbone.features(pixels[start : start + batch])
                with torch.autocast(self.device.device.type, torch.bfloat16, enabled=mixed):
                    parts.append(self._head(features))
            return torch.cat(parts)

        return with_oom_backoff(len(pixels), in_batches)

    def _vocabulary(
        self, classes: Sequence[str] | None, vocabulary: Vocabulary | Path | str | None
    ) -> Vocabulary:
        if classes is not None and vocabulary is not None:
            raise VocabularyError("classes and a vocabulary are given: give one of the two")
        if classes is not None:
            return vocabulary_from_names(classes)
        if vocabulary is None:
            return self.checkpoint.info.vocabulary
        return vocabulary if isinstance(vocabulary, Vocabulary) else load_vocabulary(vocabulary)


def load_segmenter(
    path: Path | str,
    section: EvaluateSection | None = None,
    run: RunSection | None = None,
    weights_dir: Path | str | None = None,
    text_cache: Path | None = None,
) -> Segmenter:
    """Load a checkpoint with its encoder and CLIP's text tower.

    Args:
        path: folder of a checkpoint, such as data/align.
        section: the inference protocol; None: the image size of the training, and the defaults.
        run: device and precision; None: chosen by what the machine has, threads as they are.
        weights_dir: where weights are looked for first.
        text_cache: folder where embeddings of vocabularies are kept; None: they are made anew.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or was trained with other weights.
        WeightsError: the weights of the encoder or of CLIP are missing or damaged.
        ConfigError: `run` asks for what this machine cannot do.
    """
    checkpoint = load_checkpoint(Path(path))
    info = checkpoint.info
    for reference in (info.encoder, info.clip):
        require_weights(reference, weights_dir)
    device = choose_device(run or RunSection(threads=torch.get_num_threads()))
    return Segmenter(
        checkpoint,
        load_backbone(info.encoder.name, device.device, device.dtype, weights_dir),
        load_clip(info.clip.name, device.device, device.dtype, weights_dir, text_cache),
        section or EvaluateSection(short_side=info.short_side),
        device,
    )


def label_map(
    similarity: Tensor,
    size: tuple[int, int],
    background: int | None = None,
    logit_scale: float = 40.0,
    threshold: float = 0.1,
) -> Tensor:
    """Upsample similarities and take the best class of each pixel, in bands of rows.

    The background rule: where the most probable class, by the softmax over the classes of
    logit_scale times the similarity, is less probable than the threshold, the pixel is background.

    Args:
        similarity: [K, h, w] float32.
        size: (H, W) of the image, pixels.
        background: index of the background class; None: there is none, every pixel gets its best.
        logit_scale: of the softmax.
        threshold: probability, 0 to 1.

    Returns:
        [H, W] int64; the equal of an argmax over the whole upsampled maps, without holding them.
    """
    if background is None:
        return best_class(similarity, size)[0]
    labels, probability = best_class(similarity, size, logit_scale)
    labels[probability < threshold] = background
    return labels


def best_class(
    similarity: Tensor, size: tuple[int, int], logit_scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Upsample similarities and take the best class of each pixel, with how sure it is.

    Args:
        similarity: [K, h, w] float32.
        size: (H, W) of the image, pixels.
        logit_scale: of the softmax over the classes; None: no softmax.

    Returns:
        [H, W] int64 classes, and [H, W] float32: the best class's probability, without softmax
        its similarity.
    """
    height, width = size
    labels = torch.empty(size, dtype=torch.int64, device=similarity.device)
    sure = torch.empty(size, dtype=similarity.dtype, device=similarity.device)
    band = max(1, _BAND_ELEMENTS // (len(similarity) * width))
    for start in range(0, height, band):
        stop = min(start + band, height)
        scores = _upsample(similarity, size, start, stop)
        best, labels[start:stop] = scores.max(dim=0)
        if logit_scale is not None:
            logits = logit_scale * scores
            best = (logit_scale * best - logits.logsumexp(dim=0)).exp()
        sure[start:stop] = best
    return labels, sure


def _upsample(maps: Tensor, size: tuple[int, int], start: int, stop: int) -> Tensor:
    """Rows start..stop of maps [K, h, w] upsampled to (H, W), bilinear, align_corners=False."""
    height, width = size
    rows = maps.shape[1]
    # Rows first, so that a band is not more work than its share.
    centre = (torch.arange(start, stop, device=maps.device) + 0.5) * (rows / height) - 0.5
    centre = centre.clamp_min(0.0)
    upper = centre.long().clamp_max(rows - 1)
    lower = (upper + 1).clamp_max(rows - 1)
    lines = torch.lerp(maps[:, upper], maps[:, lower], (centre - upper)[None, :, None])
    return F.interpolate(lines[None], (stop - start, width), mode="bilinear")[0]


def _as_image(image: ImageInput) -> Image.Image:
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not fits or not array.size:
        raise DataError(
            f"the image is an array {list(array.shape)} of {array.dtype}: give [H, W, 3] uint8"
        )
    return Image.fromarray(array).convert("RGB")
