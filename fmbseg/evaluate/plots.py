"""The stage plots: what `dvc plots show` draws of the trained segmenter's results.

`iou/<benchmark>.csv` (class, iou), `confusions/<benchmark>.csv` (confusion, share) and
`overlays/<benchmark>.png`: a good, a middling and a bad picture, each beside its truth.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fmbseg.evaluate.drawing import Drawing
from fmbseg.evaluate.examples import example_sheet
from fmbseg.evaluate.scoring import Candidate, Scoring, benchmark_scorings

METHOD = "fmbseg"
OVERLAYS = "overlays"


class Plots(Drawing):
    """The plots of all of `evaluate.benchmarks`, scored with the present head."""

    def draw(self, folder: Path) -> None:
        """See `Drawing.draw`."""
        work, results = self.work, self.results[METHOD]
        for name in ("iou", "confusions", OVERLAYS):
            (folder / name).mkdir()
        candidate = Candidate(METHOD, work.config, work.paths)
        with work.progress.task(self.row.name, len(results)) as task:
            for scoring in benchmark_scorings(
                candidate, results, work.paths.metrics, work.progress
            ):
                self._draw_one(folder, scoring)
                task.advance()

    def _draw_one(self, folder: Path, scoring: Scoring) -> None:
        name = scoring.dataset.name
        result = self.results[METHOD][name]
        for part, key, columns in (
            ("iou", "per_class_iou", ["class", "iou"]),
            ("confusions", "confusions", ["confusion", "share"]),
        ):
            rows = [(label, value) for label, value in result[key].items() if value is not None]
            table = pd.DataFrame(rows, columns=columns)
            table.to_csv(folder / part / f"{name}.csv", index=False, float_format="%.3f")
        picture = example_sheet(scoring.candidate.predictor, scoring.dataset)
        picture.save(folder / OVERLAYS / f"{name}.png")
