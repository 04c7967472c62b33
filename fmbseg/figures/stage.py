"""The stage figures, and drawing into any folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fmbseg.evaluate.drawing import Drawing
from fmbseg.figures import FIGURES, FigureRow
from fmbseg.stage.workplace import Workplace

if TYPE_CHECKING:  # figures that are there are found without torch and matplotlib
    from matplotlib.figure import Figure

    from fmbseg.figures.studio import Studio


class Figures(Drawing):
    """All figures, as PNG and PDF."""

    def draw(self, folder: Path) -> None:
        """See `Drawing.draw`."""
        draw_figures(self.work, FIGURES, folder)


def draw_figures(work: Workplace, names: Iterable[str], folder: Path) -> None:
    """Draw figures of a run into a folder; those of that name there are replaced.

    Args:
        work: the run's workspace.
        names: keys of `FIGURES`.
        folder: an existing one.

    Raises:
        FmbsegError: what a figure shows is missing or damaged.
    """
    from fmbseg.figures.canvas import save
    from fmbseg.figures.studio import Studio

    studio, rows = Studio(work), [FIGURES[name] for name in names]
    with work.progress.task("figures", len(rows)) as task:
        for row in rows:
            save(function_of(row)(studio), folder, row.name)
            task.advance()


def function_of(row: FigureRow) -> Callable[[Studio], Figure]:
    """What draws a figure; only now it is imported."""
    module, _, name = row.draw.partition(":")
    found: Callable[[Studio], Figure] = getattr(import_module(module), name)
    return found
