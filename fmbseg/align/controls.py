"""What studies change of a training: wrong labels, fewer images, names that are left out.

Nothing here is part of the method. Everything is drawn, and the same seed draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError

Label = npt.NDArray[np.integer]


def with_noise(label: Label, share: float, classes: int, seed: int, name: str) -> Label:
    """A label map in which some regions have another class.

    A region is what hangs together (4-neighbours) of one class. Each is made wrong with the
    probability `share`, so of the regions and of the pixels that share is wrong on average; the
    wrong class is any other one with equal odds. What is wrong at a share is wrong, in the same
    way, at every higher one.

    Args:
        label: [H, W] class indices, 255 where unlabelled; that stays.
        share: 0 to 1.
        classes: K, at least 2.
        seed: of the training.
        name: of the image: each has draws of its own.

    Returns:
        [H, W] of the same dtype.
    """
    if share == 0:
        return label
    rng = np.random.default_rng([seed, int(hashlib.sha256(name.encode()).hexdigest()[:16], 16)])
    noisy = label.copy()
    for own in np.unique(label).tolist():
        if own == UNLABELLED:
            continue
        count, regions = cv2.connectedComponents((label == own).astype(np.uint8), connectivity=4)
        odds, steps = rng.random(count), rng.integers(1, classes, count)
        new = np.where(odds < share, (own + steps) % classes, own)
        inside = regions > 0  # 0 is what is not of this class
        noisy[inside] = new[regions[inside]]
    return noisy


def drawn_images(images: Sequence[int], share: float, seed: int) -> list[int]:
    """A share of the images, at least one, repeated until they are as many as before.

    So an epoch has as many steps as with all images. What is drawn at a share is drawn at every
    higher one, too.
    """
    if share == 1:
        return [*images]
    order = np.random.default_rng([seed, len(images)]).permutation(len(images))
    drawn = sorted(images[i] for i in order[: max(1, round(share * len(images)))])
    return [drawn[i % len(drawn)] for i in range(len(images))]


def unseen_names(vocabularies: Sequence[Vocabulary], share: float, seed: int) -> frozenset[str]:
    """A share of the class names of some vocabularies; a name is unseen in all or in none.

    Backgrounds are none of them.
    """
    names = sorted(
        {
            name
            for words in vocabularies
            for index, name in enumerate(words.names)
            if index != words.background
        }
    )
    order = np.random.default_rng([seed, len(names)]).permutation(len(names))
    return frozenset(names[i] for i in order[: round(share * len(names))])


def without(words: Vocabulary, names: frozenset[str]) -> tuple[Vocabulary, npt.NDArray[np.uint8]]:
    """A vocabulary without some classes, and how its label maps change.

    Returns:
        The vocabulary, and [256] uint8: new index by old one, 255 (unlabelled) for those left out.

    Raises:
        DataError: no class is left.
    """
    kept = [index for index, name in enumerate(words.names) if name not in names]
    if not kept:
        raise DataError(
            f"{words.name} has no name left to be trained with: lower align.unseen_names"
        )
    table = np.full(256, UNLABELLED, dtype=np.uint8)
    table[kept] = np.arange(len(kept))
    background = None if words.background is None else int(table[words.background])
    classes = tuple(words.classes[index] for index in kept)
    return replace(words, classes=classes, background=background), table
