"""Stage 1 of one image in memory: detection, querying, automatic masks, classification, label.

The stages on disk (`fmbseg.pseudo.stages`) call the same steps, so both give the same label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.config import Config, LabelSection
from fmbseg.data.labels import UNLABELLED, Label, as_label, unlabelled
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
        label: [H, W] uint8 class indices, 255 unlabelled; of more than 255 classes uint16, 65535.
        query_similarity: [c] float32, cosine of each query mask's feature with its own class.
        classes: [M] int64 class of each automatic mask, 255 where nothing was detected.
        similarity: [M] float32, cosine of each automatic mask's feature with its class.
        query_margin: [c] float32, see `margins`.
        margin: [M] float32, the same of the automatic masks.
    """

    label: Label
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

    A mask less similar to its class than `section.min_similarity`, or than the class's own
    threshold, keeps its class in the result but stays out of the label map.

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
    nothing = unlabelled(len(text))
    query_used = section.use_queries & reached(query_similarity, query_classes, text, section)
    used = section.use_masks & reached(similarity, classes, text, section)
    label = compose(
        queried.masks,
        np.where(query_used, query_classes, nothing),
        automatic.masks,
        np.where(used, classes, nothing),
        size,
        nothing,
    )
    return Classification(
        label,
        query_similarity,
        classes,
        similarity,
        margins(queried.features, text, query_classes, detected),
        margins(automatic.features, text, classes, detected),
    )


def reached(
    similarity: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    text: TextEmbeddings,
    section: LabelSection,
) -> npt.NDArray[np.bool_]:
    """[M] bool: masks that are as similar to their classes as they have to be."""
    enough: npt.NDArray[np.bool_] = similarity >= section.min_similarity
    if text.least is None or not len(classes):
        return enough
    least = np.array(text.least, dtype=np.float32)
    # What has no class is not similar to any: its place does not count.
    return enough & (similarity >= least[np.minimum(classes, len(text) - 1)])


def compose(
    query_masks: Masks,
    query_classes: npt.NDArray[np.int64],
    masks: Masks,
    mask_classes: npt.NDArray[np.int64],
    size: tuple[int, int],
    nothing: int = UNLABELLED,
) -> Label:
    """Lay the masks of 1.2 over those of 1.1, in each small over large (this project's rule).

    Of masks of one size the later index lies on top. Masks of the class `nothing` are left out.

    Args:
        query_masks: c masks [H, W] bool of 1.1.
        query_classes: [c] their classes.
        masks: M masks [H, W] bool of 1.2.
        mask_classes: [M] their classes.
        size: (height, width) of the image.
        nothing: what stands for no label; of more than 255 classes it takes 16 bits.

    Returns:
        [H, W] uint8 or uint16 class indices, `nothing` under no mask.
    """
    label = as_label(np.full(size, nothing), nothing)
    for mask, index in painting(((query_masks, query_classes), (masks, mask_classes)), nothing):
        np.copyto(label, label.dtype.type(index), where=mask)
    return label


def painting(
    layers: Sequence[tuple[Masks, npt.NDArray[np.int64]]], nothing: int
) -> Iterator[tuple[npt.NDArray[np.bool_], int]]:
    """Masks with their classes in the order in which they are painted, see `compose`."""
    for layer, classes in layers:
        # Masks read from a file know their areas: they need not all be in memory.
        areas = (
            layer.areas
            if isinstance(layer, StoredMasks)
            else np.array([np.count_nonzero(mask) for mask in layer], dtype=np.int64)
        )
        for index in np.argsort(-areas, kind="stable"):
            if classes[index] != nothing:
                yield layer[index], int(classes[index])
