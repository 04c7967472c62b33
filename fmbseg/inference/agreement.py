"""How far a head agrees with itself: labels of a picture, and of the same one changed.

Where there is no truth this is what can be measured. It is no accuracy: a head may be wrong in the
same way each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.data.vocabulary import Vocabulary
from fmbseg.inference.decision import Labels
from fmbseg.inference.segmenter import Segmenter

SCALES = (0.75, 1.5)
"""Of the short side that the encoder sees, under the protocol `fmbseg`; others have their own."""


def agreement(segmenter: Segmenter, images: Sequence[Image.Image], vocabulary: Vocabulary) -> float:
    """Cohen's kappa of a head's labels with those under flips and scale, over all pixels.

    Kappa and not the share of equal labels: who says one thing everywhere agrees by chance, 0.

    Args:
        segmenter: with the head.
        images: RGB.
        vocabulary: K classes.

    Returns:
        At most 1.
    """
    count = len(vocabulary) + 1  # and what has no label
    confusion = np.zeros((count, count), dtype=np.int64)
    for image in images:
        first = _labels(segmenter, image, vocabulary)
        for second in _changed(segmenter, image, vocabulary):
            pairs = np.minimum(first, count - 1) * count + np.minimum(second, count - 1)
            confusion += np.bincount(pairs.ravel(), minlength=count**2).reshape(count, count)
    return kappa(confusion)


def kappa(confusion: npt.NDArray[np.int64]) -> float:
    """Cohen's kappa of a confusion matrix; 0 where chance alone would agree wholly."""
    shares = confusion / max(1, confusion.sum())
    by_chance = float(shares.sum(axis=0) @ shares.sum(axis=1))
    return 0.0 if by_chance >= 1 else (float(np.trace(shares)) - by_chance) / (1 - by_chance)


def _changed(segmenter: Segmenter, image: Image.Image, vocabulary: Vocabulary) -> Iterator[Labels]:
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    yield _labels(segmenter, mirrored, vocabulary)[:, ::-1]
    if segmenter.inference.protocol == "fmbseg":
        for scale in SCALES:
            side = max(1, round(segmenter.inference.short_side * scale))
            other = copy(segmenter)
            other.inference = segmenter.inference.model_copy(update={"short_side": side})
            yield _labels(other, image, vocabulary)


def _labels(segmenter: Segmenter, image: Image.Image, vocabulary: Vocabulary) -> Labels:
    ((_, decision),) = segmenter.segment([image], vocabulary)
    return decision.labels
