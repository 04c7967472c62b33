"""The curves of the trained heads."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from fmbseg.align.stages import CURVE
from fmbseg.figures.canvas import plots, write
from fmbseg.figures.studio import Studio


def draw(studio: Studio) -> Figure:
    """Loss and learning rate over epochs."""
    figure, (loss, rate) = plots(2, (3.4, 2.2))
    for folder in (studio.paths.align, studio.paths.oracle):
        if (folder / CURVE).is_file():
            curve = pd.read_csv(folder / CURVE)
            loss.plot(curve["epoch"], curve["loss"], label=folder.name, linewidth=1.2)
            rate.plot(curve["epoch"], curve["lr"], label=folder.name, linewidth=1.2)
    for panel, name in ((loss, "loss"), (rate, "learning rate")):
        write(panel.set_title, name)
        write(panel.set_xlabel, "epoch")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7, frameon=False)
    return figure
