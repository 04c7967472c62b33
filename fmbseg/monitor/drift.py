"""Distances between two sets of pictures, and whether chance would give them.

Class shares are compared by the population stability index and the Jensen-Shannon distance,
similarities and confidences by the two-sample Kolmogorov-Smirnov statistic. A distance counts as
drift where it is above its limit and pictures divided at random would hardly ever be as far apart:
of few pictures any two sets differ, of many even a difference that means nothing is no chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from fmbseg.errors import DataError
from fmbseg.monitor.observed import Observed, Values

Measure = Literal["PSI", "JS", "KS"]
_DIVISIONS = 499  # of all pictures into two sets, at random
_EQUAL = 1e-6  # distances of float32 sums that differ by less
_PRIOR = 0.5  # pictures that every class is taken to have: a class in no picture has no logarithm
_FEW = 20  # values of a class below which its similarities are not compared


@dataclass(frozen=True)
class Limits:
    """From where on a distance is drift.

    Attributes:
        psi: population stability index.
        js: Jensen-Shannon distance, 0 to 1.
        ks: Kolmogorov-Smirnov statistic, 0 to 1.
        alpha: how often chance may give such a distance.
    """

    psi: float = 0.2
    js: float = 0.15
    ks: float = 0.2
    alpha: float = 0.01

    def of(self, measure: Measure) -> float:
        """The limit of a measure."""
        return {"PSI": self.psi, "JS": self.js, "KS": self.ks}[measure]


@dataclass(frozen=True)
class Distance:
    """One distance between the sets.

    Attributes:
        what: is compared.
        measure: PSI, JS or KS.
        value: of it.
        limit: see `Limits`.
        chance: how often pictures divided at random are as far apart.
        drifted: above the limit, and no chance.
    """

    what: str
    measure: Measure
    value: float
    limit: float
    chance: float
    drifted: bool


@dataclass(frozen=True)
class ClassDrift:
    """One class in both sets.

    Attributes:
        name: of the class.
        shares: mean over the pictures, reference and current.
        psi: its part of the index.
        means: of the first measure compared; None: the class has no values in one of them.
        ks: distance of these values; None: fewer than 20 in one of them.
    """

    name: str
    shares: tuple[float, float]
    psi: float
    means: tuple[float, float] | None
    ks: float | None


@dataclass(frozen=True)
class Drift:
    """Two sets held side by side.

    Attributes:
        reference: how it was.
        current: how it is, its classes in the reference's order.
        distances: all that both allow.
        classes: by their part of the index, the largest first.
        by: what the shares of `classes` are of, those that are furthest apart; None: there are
            none.
    """

    reference: Observed
    current: Observed
    distances: tuple[Distance, ...]
    classes: tuple[ClassDrift, ...]
    by: str | None

    @property
    def drifted(self) -> bool:
        """Whether any distance is drift."""
        return any(each.drifted for each in self.distances)


def compare(reference: Observed, current: Observed, limits: Limits) -> Drift:
    """Hold two sets side by side.

    Raises:
        DataError: they have other classes, or nothing that is known of both.
    """
    current = current.in_order_of(reference)
    shares = [key for key in reference.shares if key in current.shares]
    measures = [key for key in reference.measures if key in current.measures]
    if not shares and not measures:
        raise DataError(
            f"of {reference.name} is known: {_known(reference)}; of {current.name}: "
            f"{_known(current)}: there is nothing to compare, make both in the same way"
        )
    found = [
        each
        for key in shares
        for each in _of_shares(key, reference.shares[key], current.shares[key], limits)
    ]
    found += [
        _of_measure(key, reference.measures[key], current.measures[key], limits)
        for key in measures
        if _by_picture(reference.measures[key]).size and _by_picture(current.measures[key]).size
    ]
    furthest = max((each for each in found if each.measure == "PSI"), key=_value, default=None)
    by = None if furthest is None else furthest.what
    classes = tuple(_classes(reference, current, by, measures))
    return Drift(reference, current, tuple(found), classes, by)


def _value(distance: Distance) -> float:
    return distance.value


def _known(observed: Observed) -> str:
    return ", ".join([*observed.shares, *observed.measures]) or "nothing"


def _of_shares(what: str, reference: Values, current: Values, limits: Limits) -> Iterator[Distance]:
    psi, js = _distances(reference.sum(axis=0)[None], current.sum(axis=0)[None])
    both = np.concatenate([reference, current])
    rng = np.random.default_rng(0)
    divisions = np.zeros((_DIVISIONS, len(both)), dtype=np.float32)
    divisions[:, : len(reference)] = 1
    sums = rng.permuted(divisions, axis=1) @ both.astype(np.float32)
    by_chance = _distances(sums, both.sum(axis=0) - sums)
    measures: tuple[Measure, Measure] = ("PSI", "JS")
    for measure, value, others in zip(measures, (psi[0], js[0]), by_chance, strict=True):
        chance = (1 + int((others >= value - _EQUAL).sum())) / (1 + _DIVISIONS)
        yield _distance(what, measure, float(value), chance, limits)


def _distances(first: Values, second: Values) -> tuple[Values, Values]:
    """PSI and Jensen-Shannon distance of rows of sums [..., K]."""
    p, q = (_smoothed(each.astype(np.float64)) for each in (first, second))
    with np.errstate(invalid="ignore"):  # of equals a root of what is just below zero
        return _psi(p, q).sum(axis=1), np.nan_to_num(jensenshannon(p, q, base=2, axis=1))


def _smoothed(sums: Values) -> Values:
    raised = np.maximum(sums, 0) + _PRIOR
    shares: Values = raised / raised.sum(axis=-1, keepdims=True)
    return shares


def _psi(p: Values, q: Values) -> Values:
    parts: Values = (q - p) * np.log(q / p)
    return parts


def _of_measure(what: str, reference: Values, current: Values, limits: Limits) -> Distance:
    # A value a picture: those of its classes are no chance of each other.
    found = ks_2samp(_by_picture(reference), _by_picture(current))
    return _distance(what, "KS", float(found.statistic), float(found.pvalue), limits)


def _by_picture(values: Values) -> Values:
    """Mean over the classes of each picture that has any."""
    known = ~np.isnan(values)
    some = known.any(axis=1)
    means: Values = np.where(known, values, 0)[some].sum(axis=1) / known[some].sum(axis=1)
    return means


def _distance(what: str, measure: Measure, value: float, chance: float, limits: Limits) -> Distance:
    limit = limits.of(measure)
    drifted = value > limit and chance < limits.alpha
    return Distance(what, measure, value, limit, chance, drifted)


def _classes(
    reference: Observed, current: Observed, by: str | None, measures: list[str]
) -> list[ClassDrift]:
    count = len(reference.classes)
    nothing = np.zeros((1, count))
    before, after = (nothing if by is None else each.shares[by] for each in (reference, current))
    parts = _psi(_smoothed(before.sum(axis=0)), _smoothed(after.sum(axis=0)))
    values = [each.measures[measures[0]] if measures else None for each in (reference, current)]
    found = [
        ClassDrift(
            name,
            (float(before[:, index].mean()), float(after[:, index].mean())),
            float(parts[index]),
            *_class_values(values, index),
        )
        for index, name in enumerate(reference.classes)
    ]
    return sorted(found, key=lambda each: -each.psi)


def _class_values(
    values: list[Values | None], index: int
) -> tuple[tuple[float, float] | None, float | None]:
    columns = [each[:, index] for each in values if each is not None]
    known = [column[~np.isnan(column)] for column in columns]
    if len(known) < 2 or not all(map(len, known)):
        return None, None
    means = float(known[0].mean()), float(known[1].mean())
    if min(map(len, known)) < _FEW:
        return means, None
    return means, float(ks_2samp(*known).statistic)
