"""The most frequent confusions of each benchmark."""

from __future__ import annotations

from matplotlib.figure import Figure

from fmbseg.figures.canvas import plots, write
from fmbseg.figures.studio import Studio

_SHOWN = 8


def draw(studio: Studio) -> Figure:
    """Bars: share of the scored pixels that are of one class and taken for another."""
    found = {name: studio.result(name) for name in studio.benchmarks}
    figure, axes = plots(len(found), (3.4, 1.9))
    for panel, (name, result) in zip(axes, found.items(), strict=True):
        rows = sorted(result["confusions"].items(), key=lambda row: -row[1])[:_SHOWN][::-1]
        places = range(len(rows))
        panel.barh(places, [share for _, share in rows], height=0.7, color="#5677a6")
        panel.set_yticks(places)
        write(panel.set_yticklabels, [label for label, _ in rows])
        write(panel.set_title, f"{name}, % of the scored pixels")
    return figure
