"""Segmentation of images into any classes with a trained head: no CLIP image tower, no SAM.

segmenter = load_segmenter("data/align")
result = segmenter.predict("photo.jpg", classes=["dog", "cat", "grass"])
result.label_map  # [H, W] int64, indices into result.classes
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fmbseg.align.checkpoint import Checkpoint, load_checkpoint, require_weights
from fmbseg.align.record import supervision_of
from fmbseg.config import EvaluateSection, InferenceSection, RunSection
from fmbseg.data.images import MAX_PIXELS, MAX_TILED_PIXELS, read_image, to_rgb
from fmbseg.data.labels import Label
from fmbseg.data.vocabulary import Vocabulary, load_vocabulary, vocabulary_from_names
from fmbseg.errors import DataError, VocabularyError
from fmbseg.inference.decision import Decision, Labels
from fmbseg.inference.dense import DenseInference
from fmbseg.inference.encoder import AlignedEncoder
from fmbseg.inference.maps import Maps, Similarities
from fmbseg.inference.smoothing import Smoothing
from fmbseg.inference.tiles import Tiled, Tiling
from fmbseg.inference.words import Words
from fmbseg.machine.device import DeviceChoice, choose_device, find_device
from fmbseg.models.backbone import Backbone, load_backbone
from fmbseg.models.clip import ClipModel, load_clip
from fmbseg.models.text import SAME_TO_CLIP, TextEmbeddings

ImageInput = Image.Image | npt.NDArray[np.uint8] | Path | str

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segmentation:
    """The result for one image.

    Attributes:
        label_map: [H, W] int64 at the image's own size, indices into `classes`; 255 (of more than
            255 classes 65535) where a class's own threshold leaves no label.
        classes: names of the K classes.
        maps: cosines on the grid they were decided from, on the CPU; of thousands of classes those
            that are in the picture.
    """

    label_map: Labels
    classes: tuple[str, ...]
    maps: Maps

    @cached_property
    def scores(self) -> npt.NDArray[np.float32]:
        """[K, H, W] float32, cosines at the image's own size; -inf of a class that is not asked.

        Made when first asked for: with many classes and a large photo they take gigabytes. Their
        argmax is `label_map`; where the vocabulary has a background, it is that of the other
        classes wherever `label_map` is not background.
        """
        height, width = self.label_map.shape
        scores: npt.NDArray[np.float32] = self.maps.by_class(
            len(self.classes), (height, width)
        ).numpy()
        return scores


@dataclass(frozen=True)
class TiledSegmentation:
    """The result for one image that was segmented tile by tile.

    Attributes:
        label_map: [H, W] at the image's own size, indices into `classes`, uint8 or of more than 255
            classes uint16; 255, or 65535, where a class's own threshold leaves no label.
        confidence: [H, W] float32, 0 to 1: the probability of each label, see
            `fmbseg.inference.decision.confidence`.
        classes: names of the K classes.
    """

    label_map: Label
    confidence: npt.NDArray[np.float32]
    classes: tuple[str, ...]


class Segmenter:
    """Segments images into the classes of any vocabulary. Use `load_segmenter`.

    Attributes:
        checkpoint: the head and its record.
        inference: how it is asked.
        device: where it computes.
        backbone: the frozen encoder.
        projection: which of the head's is asked with a vocabulary, see `_projection`.
        text: a vocabulary in CLIP's text space, see `_text`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        backbone: Backbone,
        clip: ClipModel,
        inference: InferenceSection,
        batch_size: int,
        device: DeviceChoice,
    ) -> None:
        self.checkpoint = checkpoint
        self._head = checkpoint.head.to(device.device)
        self.inference = inference
        self.device = device
        self.backbone = backbone
        self._batch_size = batch_size
        self._words = Words(clip, checkpoint.info.templates)
        # As the words are: a vocabulary is asked again with every image.
        self.projection = lru_cache(maxsize=8)(self._projection)
        self.text = lru_cache(maxsize=8)(self._text)

    def predict(
        self,
        image: ImageInput,
        classes: Sequence[str] | None = None,
        vocabulary: Vocabulary | Path | str | None = None,
        benchmark: str | None = None,
    ) -> Segmentation:
        """Segment one image.

        Args:
            image: a PIL image of at most 8 bits a channel; an array [H, W, 3] uint8 RGB (also
                grey [H, W] or RGBA); or a file, whose EXIF orientation is applied.
            classes: names of the classes, as `--classes` takes them (`dog|puppy`, `-wolf`); of one
                alone what is something else becomes `background`; or
            vocabulary: a vocabulary, its name or its YAML file. None of both: the classes the head
                was trained on, of several vocabularies the first.
            benchmark: see `DenseInference.segment`.

        Raises:
            DataError: the image cannot be read, has more than 8 bits a channel, or is an array of
                another kind.
            VocabularyError: both are given, or a class list is empty or has duplicates.
        """
        chosen = self._vocabulary(classes, vocabulary)
        picture = as_image(image)
        ((found, decision),) = self.segment([picture], chosen, benchmark)
        # Of more classes than memory holds at once those alone that are the best somewhere.
        present = torch.from_numpy(np.unique(decision.best[decision.best < len(chosen)]))
        maps = found.of(present)
        kept = Maps(maps.values.cpu(), maps.classes.cpu())
        return Segmentation(decision.labels, chosen.names, kept)

    def segment(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
        smoothing: Smoothing | None = None,
    ) -> Iterator[tuple[Similarities, Decision]]:
        """What is behind the label maps that `predict` gives, for several RGB images."""
        text = self.text(vocabulary)
        return self.dense(vocabulary).segment(images, vocabulary, text, benchmark, smoothing)

    def predict_tiled(
        self,
        image: ImageInput,
        tile: int,
        classes: Sequence[str] | None = None,
        vocabulary: Vocabulary | Path | str | None = None,
    ) -> TiledSegmentation:
        """Segment one image of any size tile by tile, in bounded memory.

        `predict` resizes the whole image to the head's `short_side`; here each tile is resized to
        it, so that with tiles of `short_side` pixels nothing is resized at all. An image that one
        tile covers gets the labels that `predict` gives.

        Args:
            image: see `predict`; a file or an array may have up to 178 megapixels.
            tile: side of a tile, pixels of the image; neighbours overlap by a quarter of it.
            classes: see `predict`.
            vocabulary: see `predict`.

        Raises:
            ConfigError: the tile is too small, the head is asked with a protocol that has windows
                of its own, or there are more classes than a row of tiles may have in memory.
            DataError, VocabularyError: see `predict`.
        """
        chosen = self._vocabulary(classes, vocabulary)
        found = self.tiled(as_image(image, MAX_TILED_PIXELS), chosen, Tiling.of(tile))
        return TiledSegmentation(found.label, found.confidence, chosen.names)

    def tiled(self, image: Image.Image, vocabulary: Vocabulary, tiling: Tiling) -> Tiled:
        """What is behind `predict_tiled`, for an RGB image."""
        return self.dense(vocabulary).tiled(image, vocabulary, self.text(vocabulary), tiling)

    def _text(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """A vocabulary in CLIP's text space, by the head's prompt templates or its own.

        Of one that stage 1 labelled the head's training with, classes whose words it leaves to
        earlier ones have none: no label was theirs (`inference.same_words`).
        """
        info, same = self.checkpoint.info, self.inference.same_words
        text = self._words.of(vocabulary)
        labels = supervision_of(info.training)
        machines = labels is not None and labels.annotation_free
        trained = (words.digest for words in info.vocabularies)
        if same is None or not machines or vocabulary.digest not in trained:
            return text
        return text.only(self._words.of(vocabulary.widened).told_apart(same).worded)

    def _projection(self, asked: Vocabulary) -> int:
        """Which of the head's projections is asked with a vocabulary.

        That of the vocabulary itself if the head was trained on it, else of the one that knows most
        of its classes: by a word whose text is the same to CLIP, as `sofa` and `couch` are. Of
        equals the first.
        """
        trained = self.checkpoint.info.vocabularies
        if len(trained) == 1:
            return 0
        text = self._words.of(asked)
        unknown = []
        for words in trained:
            same = text.queries @ self._words.of(words).queries.T >= SAME_TO_CLIP
            known = torch.unique(text.query_class[same.any(dim=1)])
            unknown.append((words.digest != asked.digest, len(text) - len(known)))
        return unknown.index(min(unknown))

    def encoder(self, vocabulary: Vocabulary) -> AlignedEncoder:
        """Pictures to patches in CLIP's text space, by the projection that a vocabulary asks."""
        return AlignedEncoder(
            self.backbone,
            partial(self._head, projection=self.projection(vocabulary)),
            self.inference.short_side,
            self.inference.shifts,
            self._batch_size,
            self.device,
        )

    def dense(self, vocabulary: Vocabulary) -> DenseInference:
        """Pictures to label maps, by the projection that a vocabulary asks."""
        return DenseInference(self.encoder(vocabulary), self.inference, self._batch_size)

    def _vocabulary(
        self, classes: Sequence[str] | None, vocabulary: Vocabulary | Path | str | None
    ) -> Vocabulary:
        if classes is not None and vocabulary is not None:
            raise VocabularyError("classes and a vocabulary are given: give one of the two")
        if classes is not None:
            return vocabulary_from_names(classes)
        if vocabulary is None:
            return self.checkpoint.info.vocabularies[0]
        return vocabulary if isinstance(vocabulary, Vocabulary) else load_vocabulary(vocabulary)


def load_segmenter(
    path: Path | str,
    inference: InferenceSection | None = None,
    run: RunSection | None = None,
    weights_dir: Path | str | None = None,
    batch_size: int = EvaluateSection().batch_size,
    text_cache: Path | None = None,
) -> Segmenter:
    """Load a checkpoint with its encoder and CLIP's text tower.

    Args:
        path: folder of a checkpoint, such as data/align.
        inference: how the head is asked; None: as its checkpoint says. Where it says something
            else, the difference is logged.
        run: device, precision and threads, and torch is made deterministic for the whole process;
            None: device and precision by what the machine has, and the process stays as it is.
        weights_dir: where weights are looked for first.
        batch_size: images or windows computed at once.
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
    own = info.inference
    if inference is not None and (names := own.differences(inference)):
        _log.warning(
            "%s is asked with %s, not with its own %s",
            path,
            inference.said(names),
            own.said(names),
        )
    device = find_device() if run is None else choose_device(run)
    return Segmenter(
        checkpoint,
        load_backbone(info.encoder.name, device.device, device.dtype, weights_dir),
        load_clip(info.clip.name, device.device, device.dtype, weights_dir, text_cache),
        inference or own,
        batch_size,
        device,
    )


def as_image(image: ImageInput, most: int = MAX_PIXELS) -> Image.Image:
    """A picture of at most so many pixels as RGB; else as `Segmenter.predict` takes it."""
    if isinstance(image, (str, Path)):
        return read_image(Path(image), most=most)
    if isinstance(image, Image.Image):
        return to_rgb(image, "the image", most)
    array = np.asarray(image)
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not fits or not array.size:
        raise DataError(
            f"the image is an array {list(array.shape)} of {array.dtype}: give [H, W, 3] uint8"
        )
    return Image.fromarray(array).convert("RGB")
