"""Signs that a mask has the wrong class: what CLIP, SAM, a trained head and an encoder say of it.

All run from 0 (nothing speaks against it) to 1, and none depends on the scale of a model's
similarities: what has a scale is replaced by its rank among all masks. NaN: nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Masks of one class, from which on their similarities are compared with each other alone.
_ENOUGH = 8
_NEIGHBOURS = 10
# Cosines held at once.
_ELEMENTS = 1 << 24


@dataclass
class Masks:
    """What is known of M painted masks of a set of pictures; lists grow picture by picture.

    Attributes:
        image: index of the picture.
        mask_id: as in the table of masks.
        source: query or automatic.
        classes: class index.
        pixels: visible ones.
        similarity: cosine with the text of its class.
        margin: see `fmbseg.pseudo.classification.margins`; NaN where nothing else was detected.
        sources: see `Painting.disagreement`.
        head: share of the visible pixels that a trained head calls otherwise; NaN: there is none.
        head_says: the class that it gives most of them.
        features: unit vectors of a frozen encoder, the mean under the mask; empty: there is none.
    """

    image: list[int] = field(default_factory=list)
    mask_id: list[int] = field(default_factory=list)
    source: list[str] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    similarity: list[float] = field(default_factory=list)
    margin: list[float] = field(default_factory=list)
    sources: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    head_says: list[int] = field(default_factory=list)
    features: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def __len__(self) -> int:
        """M."""
        return len(self.image)


@dataclass(frozen=True)
class Neighbours:
    """What the masks of other pictures that look most alike are called.

    Attributes:
        other: [M] share of them that have another class, NaN where that is not known.
        says: [M] the class that most of them have.
    """

    other: Floats
    says: npt.NDArray[np.int64]


def neighbours(masks: Masks) -> Neighbours:
    """Ask the nearest masks in the encoder's space, of other pictures.

    A class with few masks elsewhere is asked for no more neighbours than it can have.
    """
    count = len(masks)
    other = np.full(count, np.nan)
    classes = np.array(masks.classes, dtype=np.int64)
    says = classes.copy()
    if not masks.features:
        return Neighbours(other, says)
    features, image = np.stack(masks.features), np.array(masks.image)
    rows = max(1, _ELEMENTS // count)
    for start in range(0, count, rows):
        block = slice(start, start + rows)
        alike = features[block] @ features.T
        elsewhere = image[block, None] != image[None]
        alike[~elsewhere] = -np.inf
        same = (classes[block, None] == classes[None]) & elsewhere
        for row in range(len(alike)):
            most = min(_NEIGHBOURS, int(same[row].sum()))
            if most == 0:
                continue
            nearest = np.argpartition(-alike[row], most - 1)[:most]
            index = start + row
            other[index] = (classes[nearest] != classes[index]).mean()
            values, counts = np.unique(classes[nearest], return_counts=True)
            says[index] = values[counts.argmax()]
    return Neighbours(other, says)


def low(values: Sequence[float]) -> Floats:
    """[M] rank from 0 (the highest) to 1 (the lowest); NaN stays."""
    found = np.array(values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(found))
    order = np.argsort(np.argsort(-found[known], kind="stable"), kind="stable")
    found[known] = order / max(1, len(known) - 1)
    return found


def low_within(values: Sequence[float], classes: Sequence[int]) -> Floats:
    """The same among masks of one class, where it has enough: words have scales of their own."""
    found, index = np.array(values, dtype=np.float64), np.array(classes)
    ranks = low(values)
    for each in np.unique(index):
        members = np.flatnonzero(index == each)
        if len(members) >= _ENOUGH:
            ranks[members] = low(found[members].tolist())
    return ranks


SIGNALS: Mapping[str, Callable[[Masks, Neighbours], Floats]] = {
    "similarity": lambda masks, near: low_within(masks.similarity, masks.classes),
    "margin": lambda masks, near: low(masks.margin),
    "sources": lambda masks, near: np.array(masks.sources),
    "head": lambda masks, near: np.array(masks.head),
    "neighbours": lambda masks, near: near.other,
}
"""Name of a sign -> [M] values."""
