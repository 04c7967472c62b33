"""Stage 1 of one image in memory: detection, querying, automatic masks, classification, label.

The stages on disk (`fmbseg.pseudo.stages`) call the same steps, so both give the same label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.config import Config, LabelSection
from fmbseg.data.labels import UNLABELLED
from fmbseg.models.mask_model import MaskModel
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.classification import classify_masks, mask_features
from fmbseg.pseudo.detection import Detections, detect_classes, similarity_to_classes
from fmbseg.pseudo.encodings import ImageEncodings
from fmbseg.pseudo.labels import Masks, compose
from fmbseg.pseudo.querying import query_masks, query_points


@dataclass(frozen=True)
class Classification:
    """Classes of an image's masks, and the label map composed of them.

    Attributes:
        label: [H, W] uint8 class indices, 255 unlabelled.
        query_similarity: [c] float32, cosine of each query mask's feature with its own class.
        classes: [M] int64 class of each automatic mask, 255 where nothing was detected.
        similarity: [M] float32, cosine of each automatic mask's feature with its class.
    """

    label: npt.NDArray[np.uint8]
    query_similarity: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]


@dataclass(frozen=True)
class PseudoLabel:
    """Everything stage 1 finds in one image of H x W pixels.

    Attributes:
        label: [H, W] uint8 class indices, 255 unlabelled.
        detections: the c detected classes.
        points: [c, P, 2] float32 query points (x, y) in pixels of the image.
        query_masks: [c, H, W] bool, the mask of each detected class (1.1).
        query_iou: [c] float32, SAM's predicted IoU of them.
        masks: [M, H, W] bool automatic masks (1.2).
        mask_iou: [M] float32, SAM's predicted IoU of them.
        mask_classes: [M] int64, the class of each; 255 where nothing was detected.
        mask_similarity: [M] float32, cosine of each mask's feature with its class.
    """

    label: npt.NDArray[np.uint8]
    detections: Detections
    points: npt.NDArray[np.float32]
    query_masks: npt.NDArray[np.bool_]
    query_iou: npt.NDArray[np.float32]
    masks: npt.NDArray[np.bool_]
    mask_iou: npt.NDArray[np.float32]
    mask_classes: npt.NDArray[np.int64]
    mask_similarity: npt.NDArray[np.float32]


def label_image(
    encodings: ImageEncodings, sam: MaskModel[Any], text: TextEmbeddings, config: Config
) -> PseudoLabel:
    """Pseudo-label one encoded image of H x W pixels.

    Args:
        encodings: of the image.
        sam: the mask model of `encodings.sam`.
        text: embeddings of the vocabulary, by the CLIP of `encodings.clip`.
        config: sections detection, query, sam and label are read.
    """
    height, width = encodings.sam.original_size
    dense, automatic = encodings.clip.dense, encodings.automatic
    detections = detect_classes(encodings.clip.windows, dense, text, config.detection)
    points = query_points(dense, text, detections.classes, config.query.points, (width, height))
    queried, query_iou = query_masks(sam, encodings.sam, points, config.sam.batch_size)
    found = classify_and_compose(
        dense,
        text,
        detections.classes,
        queried,
        detections.classes,
        automatic.masks,
        config.label,
        (height, width),
    )
    return PseudoLabel(
        label=found.label,
        detections=detections,
        points=points,
        query_masks=queried,
        query_iou=query_iou,
        masks=automatic.masks,
        mask_iou=automatic.predicted_iou,
        mask_classes=found.classes,
        mask_similarity=found.similarity,
    )


def classify_and_compose(
    dense: npt.NDArray[np.floating],
    text: TextEmbeddings,
    detected: npt.NDArray[np.int64],
    queried: Masks,
    query_classes: npt.NDArray[np.int64],
    masks: Masks,
    section: LabelSection,
    size: tuple[int, int],
    areas: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None,
) -> Classification:
    """Classify the automatic masks and compose them with the query masks (1.2).

    A mask less similar to its class than `section.min_similarity` keeps its class in the result
    but stays out of the label map.

    Args:
        dense: [h, w, D] unit CLIP patch features of the image.
        text: embeddings of the vocabulary.
        detected: [c] detected classes.
        queried: query masks [H, W] bool.
        query_classes: their classes.
        masks: M automatic masks [H, W] bool.
        section: which masks are used, and the least similarity.
        size: (height, width) of the image.
        areas: pixels of the query masks and of the automatic masks where they are known.
    """
    query_similarity = _own_similarity(mask_features(dense, queried), text, query_classes)
    classes, similarity = classify_masks(mask_features(dense, masks), text, detected)
    label = compose(
        queried,
        _painted(query_classes, query_similarity, section.use_queries, section.min_similarity),
        masks,
        _painted(classes, similarity, section.use_masks, section.min_similarity),
        size,
        areas,
    )
    return Classification(label, query_similarity, classes, similarity)


def _own_similarity(
    features: npt.NDArray[np.float32], text: TextEmbeddings, classes: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    return similarity_to_classes(features, text)[np.arange(len(classes)), classes]


def _painted(
    classes: npt.NDArray[np.int64],
    similarity: npt.NDArray[np.float32],
    used: bool,
    least: float,
) -> npt.NDArray[np.int64]:
    return np.where(used & (similarity >= least), classes, UNLABELLED)
