"""Doubt out of signs, and the order in which masks and pictures are to be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fmbseg.review.collect import Collected
from fmbseg.review.signals import SIGNALS, Floats, Masks, Neighbours, neighbours

# Of a logistic model of "the mask has the wrong class"; docs/labels.md says what it was fitted on.
WEIGHTS: Mapping[str, float] = {
    "similarity": 2.0,
    "margin": 0.75,
    "sources": 2.5,
    "head": 2.0,
    "neighbours": 3.0,
}
# With every sign in the middle.
_BIAS = -1.45
# Of a sign about which nothing is known.
_NEUTRAL = 0.5
# Of 256 places, in so many the signatures of near-duplicates differ at most.
_ALIKE = 20


@dataclass(frozen=True)
class Ranking:
    """What is to be looked at first.

    Attributes:
        collected: the pictures and their masks.
        signs: [M] values by the name of the sign, see `SIGNALS`.
        near: what masks alike are called.
        doubt: [M] of each mask, 0 to 1.
        masks: [M] indices, the most doubtful first.
        picture_doubt: [n] expected share of wrong pixels, 0 to 1.
        pictures: indices of pictures, the most doubtful first, without near-duplicates.
        like: near-duplicate -> the picture before it that is shown in its place.
    """

    collected: Collected
    signs: Mapping[str, Floats]
    near: Neighbours
    doubt: Floats
    masks: tuple[int, ...]
    picture_doubt: Floats
    pictures: tuple[int, ...]
    like: Mapping[int, int]


def rank(collected: Collected) -> Ranking:
    """Rank masks and pictures by doubt."""
    masks = collected.masks
    near = neighbours(masks)
    signs = signs_of(masks, near)
    doubt = doubts(signs, len(masks))
    of_pictures = picture_doubts(collected, doubt)
    pictures, like = thinned(collected.signatures, of_pictures)
    order = np.argsort(-doubt, kind="stable")
    return Ranking(
        collected, signs, near, doubt, tuple(order.tolist()), of_pictures, pictures, like
    )


def signs_of(masks: Masks, near: Neighbours) -> dict[str, Floats]:
    """The values of all signs, by name."""
    return {name: sign(masks, near) for name, sign in SIGNALS.items()}


def contributions(signs: Mapping[str, Floats]) -> dict[str, Floats]:
    """How much each sign adds to the doubt, in the exponent; 0 for one that says nothing."""
    return {
        name: WEIGHTS[name] * np.nan_to_num(values - _NEUTRAL) for name, values in signs.items()
    }


def doubts(signs: Mapping[str, Floats], count: int) -> Floats:
    """[M] 0 to 1; `count` is M."""
    total = sum(contributions(signs).values(), start=np.zeros(count))
    found: Floats = 1 / (1 + np.exp(-(total + _BIAS)))
    return found


def picture_doubts(collected: Collected, doubt: Floats) -> Floats:
    """[n] about the share of the pixels that are wrong.

    Doubt is squared: of equal doubt, a large mask is less often wrong than a small one. Pixels
    without a label count, where a picture has more of them than most: with few classes they are
    what is to be expected.
    """
    masks, pixels = collected.masks, collected.pixels
    weighted = doubt**2 * np.array(masks.pixels, dtype=np.float64)
    index = np.array(masks.image, dtype=np.int64)
    wrong = np.bincount(index, weighted, minlength=len(pixels)) / np.maximum(pixels, 1)
    missing = collected.unlabelled
    usual = np.median(missing) if len(missing) else 0.0
    found: Floats = wrong + np.maximum(missing - usual, 0)
    return found


def thinned(
    signatures: npt.NDArray[np.bool_], doubt: Floats
) -> tuple[tuple[int, ...], dict[int, int]]:
    """Pictures by doubt, of near-duplicates the first alone.

    Args:
        signatures: [n, B] bool.
        doubt: [n].

    Returns:
        Indices of the pictures that stay; and for each of the others the one like it that does.
    """
    kept: list[int] = []
    like: dict[int, int] = {}
    for index in np.argsort(-doubt, kind="stable").tolist():
        if kept:
            apart = (signatures[kept] != signatures[index]).sum(axis=1)
            nearest = int(apart.argmin())
            if apart[nearest] <= _ALIKE:
                like[index] = kept[nearest]
                continue
        kept.append(index)
    return tuple(kept), like
