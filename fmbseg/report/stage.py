"""The stage report: the page and the card of the present results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fmbseg
from fmbseg.config import Config
from fmbseg.evaluate.drawing import Drawing
from fmbseg.report.card import card
from fmbseg.report.content import collect
from fmbseg.report.page import page
from fmbseg.report.times import times
from fmbseg.stage.workplace import Workplace
from fmbseg.store.atomic import write_atomically

PAGE = "index.html"
CARD = "README.md"


class ReportStage(Drawing):
    """`index.html` and `README.md`. They hold no time and no path: equal results, equal bytes."""

    def draw(self, folder: Path) -> None:
        """See `Drawing.draw`."""
        write_report(self.work, folder)

    def track(self) -> None:
        """See `Stage.track`."""
        work = self.work
        files = [self.place / name for name in (PAGE, CARD)]
        work.tracker.report(work.config, work.paths, files)

    def summary(self) -> list[str]:
        """See `Stage.summary`."""
        return [f"open {self.place / PAGE}"]


def write_report(work: Workplace, folder: Path, *, timed: bool = False) -> None:
    """Write page and card of what lies in a workspace; files of that name are replaced.

    Args:
        work: the workspace.
        folder: made where it is missing.
        timed: whether the page says what the stages took on this machine.

    Raises:
        DataError: there are no results, or a file among them is damaged.
    """
    content = collect(work.paths, work.vocabularies, run_facts(work.config))
    if timed:
        content = replace(content, times=times(work))
    for name, text in ((PAGE, page(content)), (CARD, card(content))):
        write_atomically(folder / name, text.encode())


def run_facts(config: Config) -> list[tuple[str, str]]:
    """What the run was made with, by its configuration."""
    data, run = config.data, config.run
    return [
        ("data", f"{data.name}, {data.split}" + (f", {data.limit} pictures" * bool(data.limit))),
        ("preset", run.preset),
        ("seed", str(run.seed)),
        ("fmbseg", fmbseg.__version__),
    ]
