"""Figures of a run, after those of the paper: each is a module, and a row of `FIGURES`.

A figure is a function of the `Studio`, which has the run's models and pictures, to a sheet of
matplotlib. `fmbseg figures` draws them, and so does the stage of that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FigureRow:
    """One figure.

    Attributes:
        name: of its files, and in `fmbseg figures NAME`.
        draw: the function that draws it, `module:function`; imported when it is drawn.
        caption: what is to be seen.
    """

    name: str
    draw: str
    caption: str


_TABLE = (
    FigureRow(
        "querying",
        "fmbseg.figures.querying:draw",
        "1.1 Querying: the query points of a detected class (stars), the masks that SAM gives for "
        "them with the IoU that it predicts, and the one that is taken (framed).",
    ),
    FigureRow(
        "similarity",
        "fmbseg.figures.similarity:draw",
        "Cosine of patches and a class's text, before and after alignment: CLIP's own patches, and "
        "the frozen encoder's through the trained head.",
    ),
    FigureRow(
        "results",
        "fmbseg.figures.results:draw",
        "A picture of each benchmark: the middling one by fmbseg's own IoU among the first.",
    ),
    FigureRow(
        "labels",
        "fmbseg.figures.labels:draw",
        "Stage 1's labels: of querying alone (1.1), and with the automatic masks (1.1 + 1.2); the "
        "two pictures that gain most and the two that lose most, chosen by truth.",
    ),
    FigureRow(
        "patches",
        "fmbseg.figures.patches:draw",
        "Patches by their first three principal components as red, green and blue: CLIP's, the "
        "frozen encoder's, and the encoder's after alignment. Like colours are like features.",
    ),
    FigureRow(
        "confusion",
        "fmbseg.figures.confusion:draw",
        "Classes that are taken for others: share of all scored pixels.",
    ),
    FigureRow(
        "training",
        "fmbseg.figures.training:draw",
        "Loss and learning rate of the trained head, and of the one that is trained on truth.",
    ),
)
FIGURES: Mapping[str, FigureRow] = {row.name: row for row in _TABLE}
