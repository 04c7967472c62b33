"""What was seen in a set of pictures, class by class, in a form that two sets can be held in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fmbseg.errors import DataError

Values = npt.NDArray[np.float64]

# What a picture may say of a class: shares add up over classes, measures do not.
DETECTED = "classes detected"
LABELLED = "classes labelled"
AREA = "area of classes"
DETECTION = "similarity of detections"
MASK = "similarity of masks"
CONFIDENCE = "confidence of labels"
#: Share of a picture from which on a class that is labelled there counts as one of it.
MIN_AREA = 0.01


@dataclass(frozen=True)
class Observed:
    """A set of n pictures seen in K classes.

    Attributes:
        name: of the set.
        classes: names.
        pictures: n.
        shares: [n, K] by what they are of: 1 where a class is in a picture, or the area it has of
            what is labelled.
        measures: [n, K] by what they measure; NaN where there is nothing to measure.
        unlabelled: share of the area that has no label; None: not known.
    """

    name: str
    classes: tuple[str, ...]
    pictures: int
    shares: Mapping[str, Values] = field(default_factory=dict)
    measures: Mapping[str, Values] = field(default_factory=dict)
    unlabelled: float | None = None

    def in_order_of(self, other: Observed) -> Observed:
        """With its classes in the order of another set's.

        Raises:
            DataError: they are others.
        """
        if alone := {*self.classes} ^ {*other.classes}:
            raise DataError(
                f"{self.name} and {other.name} have other classes ({min(alone)!r} is in one "
                "alone): compare what was asked with the same words"
            )
        order = [self.classes.index(name) for name in other.classes]
        return Observed(
            self.name,
            other.classes,
            self.pictures,
            {key: value[:, order] for key, value in self.shares.items()},
            {key: value[:, order] for key, value in self.measures.items()},
            self.unlabelled,
        )


def table(
    pictures: Iterable[str], classes: int, rows: Iterable[tuple[str, int, float]], empty: float
) -> Values:
    """[n, K] of rows (picture, class, value); of several values the highest counts.

    Args:
        pictures: ids, in the order of the result; rows of others are left out.
        classes: K.
        rows: of any order.
        empty: what stands where there is no row.
    """
    place = {name: index for index, name in enumerate(pictures)}
    found = np.full((len(place), classes), -np.inf)
    for name, index, value in rows:
        if name in place and 0 <= index < classes:
            row = place[name]
            found[row, index] = max(found[row, index], value)
    found[np.isneginf(found)] = empty
    return found


def labelled_shares(areas: Values) -> dict[str, Values]:
    """What areas [n, K], shares of each picture, say: which classes are labelled, and how much."""
    whole = areas.sum(axis=1, keepdims=True)
    return {LABELLED: (areas >= MIN_AREA).astype(float), AREA: areas / np.maximum(whole, 1e-12)}
