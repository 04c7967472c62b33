"""Drift for people: lines for a terminal, and one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmbseg.errors import shown
from fmbseg.monitor.drift import Distance, Drift
from fmbseg.monitor.observed import Observed, Values
from fmbseg.report.page import page_template
from fmbseg.store.ledger import Ledger

_BINS = 24
_FIRST = 25  # classes that are shown; the others are folded away


@dataclass(frozen=True)
class Histogram:
    """Values of both sets, a mean a picture, in bins of one width.

    Attributes:
        what: was measured.
        low: where the first bin begins.
        high: where the last one ends.
        reference: [bins] share of the pictures, of the highest bin of both.
        current: the same.
    """

    what: str
    low: float
    high: float
    reference: tuple[float, ...]
    current: tuple[float, ...]


def lines(drift: Drift) -> list[str]:
    """What a terminal shows: a line a distance, and the verdict."""
    width = max(len(each.what) for each in drift.distances)
    told = [f"{each.what:{width}}  {_said(each)}" for each in drift.distances]
    most = moved(drift)
    return [*told, f"{verdict(drift)}: {most}" if most else verdict(drift)]


def verdict(drift: Drift) -> str:
    """In a word or two."""
    return "drift" if drift.drifted else "no drift"


def moved(drift: Drift) -> str:
    """The classes that have moved most, with their shares; empty where no shares are drift."""
    if not any(each.drifted and each.measure != "KS" for each in drift.distances):
        return ""
    largest = [each for each in drift.classes if each.psi > 0][:3]
    return ", ".join(
        f"{each.name} {100 * each.shares[0]:.1f} -> {100 * each.shares[1]:.1f} %"
        for each in largest
    )


def _said(each: Distance) -> str:
    mark = "  drift" if each.drifted else ""
    return (
        f"{each.measure:3} {each.value:.3f} (limit {each.limit:g}, chance {each.chance:.3f}){mark}"
    )


def write_page(drift: Drift, out: Path) -> None:
    """Write the page, in the place of an earlier one or of none.

    Raises:
        StoreError: there is a file of that name that is not by fmbseg.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    Ledger(out.parent).write(out.name, page(drift).encode())


def page(drift: Drift) -> str:
    """One HTML file that needs nothing else."""
    sides = drift.reference, drift.current
    return page_template(Path(__file__).parent).render(
        drift=drift,
        verdict=verdict(drift),
        moved=moved(drift),
        names=[shown(each.name) for each in sides],
        histograms=_histograms(*sides),
        first=drift.classes[:_FIRST],
        folded=drift.classes[_FIRST:],
        highest=max(share for each in drift.classes for share in each.shares) or 1,
    )


def _histograms(reference: Observed, current: Observed) -> list[Histogram]:
    found = []
    for what, values in reference.measures.items():
        sides = [_means(each) for each in (values, current.measures.get(what)) if each is not None]
        if len(sides) == 2 and all(map(len, sides)):
            found.append(_histogram(what, *sides))
    return found


def _means(values: Values) -> Values:
    some: Values = values[~np.isnan(values).all(axis=1)]
    means: Values = np.nanmean(some, axis=1) if len(some) else np.zeros(0)
    return means


def _histogram(what: str, reference: Values, current: Values) -> Histogram:
    both = np.concatenate([reference, current])
    low, high = float(both.min()), float(both.max())
    high = high if high > low else low + 1e-3
    counts = [
        np.histogram(side, _BINS, (low, high))[0] / len(side) for side in (reference, current)
    ]
    top = max(side.max() for side in counts)
    shares = [tuple((side / top).tolist()) for side in counts]
    return Histogram(what, low, high, shares[0], shares[1])
