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
from fmbseg.models.mask_model import AutomaticMasks, MaskModel
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.classification import Masks, Regions, classify_masks, margins, regions
from fmbseg.pseudo.detection import Detections, detect_classes, similarity_to_classes
from fmbseg.pseudo.encodings import ImageEncodings
from fmbseg.pseudo.querying import query_masks, query_points
from fmbseg.pseudo.tables import StoredMasks


@dataclass(frozen=True)
class Classification:
    """Classes of an image's masks, and the label map composed of them.

    Attributes:
        label: [H, W] uint8 class indices, 255 unlabelled.
        query_similarity: [c] float32, cosine of each query mask's feature with its own class.
        classes: [M] int64 class of each automatic mask, 255 where nothing was detected.
        similarity: [M] float32, cosine of each automatic mask's feature with its class.
        query_margin: [c] float32, see `margins`.
        margin: [M] float32, the same of the automatic masks.
    """

    label: npt.NDArray[np.uint8]
    query_similarity: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]
    query_margin: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageLabels(Classification):
    """The same, with all that led to it.

    Attributes:
        detections: c classes that were detected (1.1).
        points: [c, P, 2] float32, (x, y) in pixels: where each of them was queried.
        queried: [c, H, W] bool, the mask of each query.
        query_iou: [c] float32, IoU predicted of them.
        automatic: M automatic masks (1.2).
    """

    detections: Detections
    points: npt.NDArray[np.float32]
    queried: npt.NDArray[np.bool_]
    query_iou: npt.NDArray[np.float32]
    automatic: AutomaticMasks


def label_image(
    encodings: ImageEncodings, sam: MaskModel[Any], text: TextEmbeddings, config: Config
) -> ImageLabels:
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
    classes = detections.classes
    points = query_points(dense, text, classes, config.query.points, (width, height))
    queried, query_iou = query_masks(sam, encodings.sam, points, config.sam.batch_size)
    found = classify_and_compose(
        regions(dense, queried),
        classes,
        regions(dense, automatic.masks),
        classes,
        text,
        config.label,
        (height, width),
    )
    return ImageLabels(
        **vars(found),
        detections=detections,
        points=points,
        queried=queried,
        query_iou=query_iou,
        automatic=automatic,
    )


def classify_and_compose(
    queried: Regions,
    query_classes: npt.NDArray[np.int64],
    automatic: Regions,
    detected: npt.NDArray[np.int64],
    text: TextEmbeddings,
    section: LabelSection,
    size: tuple[int, int],
) -> Classification:
    """Classify the automatic masks and compose them with the query masks (1.2).

    A mask less similar to its class than `section.min_similarity` keeps its class in the result
    but stays out of the label map.

    Args:
        queried: q query masks of the image.
        query_classes: [q] their classes.
        automatic: M automatic masks of the image.
        detected: [c] detected classes, which the automatic masks may have.
        text: embeddings of the vocabulary.
        section: which masks are used, and the least similarity.
        size: (height, width) of the image.
    """
    of_queries = similarity_to_classes(queried.features, text)
    query_similarity = of_queries[np.arange(len(query_classes)), query_classes]
    classes, similarity = classify_masks(automatic.features, text, detected)
    query_used = section.use_queries & (query_similarity >= section.min_similarity)
    used = section.use_masks & (similarity >= section.min_similarity)
    label = compose(
        queried.masks,
        np.where(query_used, query_classes, UNLABELLED),
        automatic.masks,
        np.where(used, classes, UNLABELLED),
        size,
    )
    return Classification(
        label,
        query_similarity,
        classes,
        similarity,
        margins(queried.features, text, query_classes, detected),
        margins(automatic.features, text, classes, detected),
    )


def compose(
    query_masks: Masks,
    query_classes: npt.NDArray[np.int64],
    masks: Masks,
    mask_classes: npt.NDArray[np.int64],
    size: tuple[int, int],
) -> npt.NDArray[np.uint8]:
    """Lay the masks of 1.2 over those of 1.1, in each small over large (this project's rule).

    Of masks of one size the later index lies on top. Masks of class 255 are left out.

    Args:
        query_masks: c masks [H, W] bool of 1.1.
        query_classes: [c] their classes.
        masks: M masks [H, W] bool of 1.2.
        mask_classes: [M] their classes.
        size: (height, width) of the image.

    Returns:
        [H, W] uint8 class indices, 255 under no mask.
    """
    label = np.full(size, UNLABELLED, dtype=np.uint8)
    for layer, classes in ((query_masks, query_classes), (masks, mask_classes)):
        # Masks read from a file know their areas: they need not all be in memory.
        areas = (
            layer.areas
            if isinstance(layer, StoredMasks)
            else np.array([np.count_nonzero(mask) for mask in layer], dtype=np.int64)
        )
        for index in np.argsort(-areas, kind="stable"):
            if classes[index] != UNLABELLED:
                np.copyto(label, np.uint8(classes[index]), where=layer[index])
    return label
