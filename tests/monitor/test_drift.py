"""Drift is found where pictures differ, and not where chance alone divides them."""

from __future__ import annotations

import numpy as np
import pytest

from fmbseg.errors import DataError
from fmbseg.monitor.drift import Limits, compare
from fmbseg.monitor.observed import (
    AREA,
    DETECTED,
    DETECTION,
    LABELLED,
    Observed,
    Values,
    labelled_shares,
    table,
)
from fmbseg.monitor.page import lines

CLASSES = ("dog", "cat", "sky")


def _seen(name: str, present: Values, similarity: float = 0.5, seed: int = 0) -> Observed:
    rng = np.random.default_rng(seed)
    values = np.where(present > 0, rng.normal(similarity, 0.05, present.shape), np.nan)
    return Observed(name, CLASSES, len(present), {DETECTED: present}, {DETECTION: values})


def _drawn(pictures: int, chances: tuple[float, ...], seed: int) -> Values:
    rng = np.random.default_rng(seed)
    return (rng.random((pictures, len(chances))) < chances).astype(float)


def test_a_set_is_as_it_is() -> None:
    seen = _seen("a", _drawn(100, (0.5, 0.2, 0.9), 0))
    found = compare(seen, seen, Limits())
    assert [each.value for each in found.distances] == pytest.approx([0, 0, 0], abs=1e-9)
    assert not found.drifted


def test_distances_are_those_of_their_definitions() -> None:
    before = np.array([[1.0, 0, 1]] * 30 + [[0, 1.0, 1]] * 10)
    after = np.array([[1.0, 0, 1]] * 10 + [[0, 1.0, 1]] * 30)
    found = compare(_seen("a", before), _seen("b", after, 0.9, seed=1), Limits())
    psi, js, ks = found.distances
    # Every class is taken to be in half a picture more than it is.
    p, q = (np.array(sums) / 81.5 for sums in ([30.5, 10.5, 40.5], [10.5, 30.5, 40.5]))
    assert psi.value == pytest.approx(float(((q - p) * np.log(q / p)).sum()))
    middle = (p + q) / 2
    divergence = 0.5 * sum(float((each * np.log2(each / middle)).sum()) for each in (p, q))
    assert js.value == pytest.approx(divergence**0.5)
    assert ks.value == 1  # no similarity before is as high as any after
    assert all(each.drifted for each in found.distances)
    assert {each.name for each in found.classes[:2]} == {"dog", "cat"}
    assert found.classes[-1].psi == 0
    assert sum(each.psi for each in found.classes) == pytest.approx(psi.value)


def test_what_chance_divides_is_rarely_drift() -> None:
    chances = (0.3, 0.1, 0.8)
    limits = Limits(psi=0, js=0, ks=0, alpha=0.05)  # chance alone decides
    alarms = sum(
        distance.drifted
        for seed in range(40)
        for distance in compare(
            _seen("a", _drawn(40, chances, 2 * seed), seed=2 * seed),
            _seen("b", _drawn(40, chances, 2 * seed + 1), seed=2 * seed + 1),
            limits,
        ).distances
    )
    assert alarms <= 0.1 * 120


def test_a_large_distance_of_few_pictures_is_no_drift() -> None:
    before, after = np.array([[1.0, 0, 0]] * 2), np.array([[0, 1.0, 0]] * 2)
    found = compare(_seen("a", before), _seen("b", after), Limits())
    assert found.distances[0].value > found.distances[0].limit
    assert not found.drifted


def test_a_difference_below_the_limit_is_no_drift_however_sure_it_is() -> None:
    before, after = (_drawn(4000, (each, 0.5, 0.5), seed) for seed, each in ((0, 0.5), (1, 0.56)))
    found = compare(_seen("a", before), _seen("b", after), Limits())
    assert found.distances[0].chance < 0.01
    assert not found.distances[0].drifted
    assert compare(_seen("a", before), _seen("b", after), Limits(psi=0)).drifted


def test_classes_are_compared_by_their_names() -> None:
    seen = _seen("a", _drawn(50, (0.9, 0.1, 0.5), 0))
    order = [2, 0, 1]
    turned = Observed(
        "b",
        tuple(CLASSES[index] for index in order),
        50,
        {key: value[:, order] for key, value in seen.shares.items()},
        {key: value[:, order] for key, value in seen.measures.items()},
    )
    assert compare(seen, turned, Limits()).distances[0].value == pytest.approx(0)


def test_other_classes_and_nothing_in_common_are_refused() -> None:
    seen = _seen("a", _drawn(5, (0.9, 0.1, 0.5), 0))
    with pytest.raises(DataError, match=r"a and b have other classes|b and a have other classes"):
        compare(seen, Observed("b", ("dog", "cat", "cow"), 5, seen.shares), Limits())
    with pytest.raises(DataError, match="there is nothing to compare"):
        compare(seen, Observed("b", CLASSES, 5, {AREA: seen.shares[DETECTED]}), Limits())


def test_of_several_values_of_a_class_the_highest_counts() -> None:
    rows = [("b", 0, 0.2), ("b", 0, 0.7), ("other", 0, 1.0), ("a", 255, 1.0)]
    found = table(("a", "b"), 2, rows, float("nan"))
    assert found[1, 0] == 0.7
    assert np.isnan(found).sum() == 3


def test_areas_are_shares_of_what_is_labelled() -> None:
    shares = labelled_shares(np.array([[0.2, 0.005, 0.2], [0, 0, 0]]))
    assert shares[LABELLED].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert shares[AREA][0].sum() == pytest.approx(1)
    assert not shares[AREA][1].any()


def test_the_classes_are_shown_by_the_shares_that_are_furthest_apart() -> None:
    present = np.ones((30, 2))
    areas = (np.array([[0.9, 0.1]] * 30), np.array([[0.2, 0.8]] * 30))
    before, after = (
        Observed(name, ("dog", "cat"), 30, {LABELLED: present, AREA: area})
        for name, area in zip("ab", areas, strict=True)
    )
    found = compare(before, after, Limits())
    assert found.by == AREA
    assert found.classes[0].shares == pytest.approx((0.1, 0.8))
    assert lines(found)[-1] == "drift: cat 10.0 -> 80.0 %, dog 90.0 -> 20.0 %"
    # What is in every picture is so by chance as well.
    assert found.distances[1].chance == 1
