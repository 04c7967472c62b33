"""The stage plots: what `dvc plots show` draws of the trained segmenter's results.

`iou/<benchmark>.csv` (class, iou: the best and the worst, as many as a chart has room for),
`classes/<benchmark>.csv` (all of them), `confusions/<benchmark>.csv` (confusion, share) and
`overlays/<benchmark>.png`: a good, a middling and a bad picture, each beside its truth.
"""

from __future__ import annotations

from pathlib import Path

from fmbseg.evaluate.drawing import Drawing
from fmbseg.evaluate.results import EXAMPLES
from fmbseg.evaluate.scoring import Candidate, Scoring, benchmark_scorings

METHOD = "fmbseg"
OVERLAYS = "overlays"
ENDS = 20
"""Classes of each end, the best and the worst, that are shown where there are more."""


class Plots(Drawing):
    """The plots of all of `evaluate.benchmarks`, scored with the present head."""

    def draw(self, folder: Path) -> None:
        """See `Drawing.draw`."""
        work, results = self.work, self.results[METHOD]
        for name in ("iou", "classes", "confusions", OVERLAYS):
            (folder / name).mkdir()
        candidate = Candidate(METHOD, work.config, work.paths)
        with work.progress.task(self.row.name, len(results)) as task:
            for scoring in benchmark_scorings(
                candidate, results, work.paths.metrics, work.progress
            ):
                self._draw_one(folder, scoring)
                task.advance()

    def _draw_one(self, folder: Path, scoring: Scoring) -> None:
        import pandas as pd

        from fmbseg.evaluate.examples import example_sheet

        name = scoring.dataset.name
        result = self.results[METHOD][name]
        iou = [(label, value) for label, value in result["per_class_iou"].items()]
        scored = sorted((row for row in iou if row[1] is not None), key=lambda row: -row[1])
        ends = [*scored[:ENDS], *scored[max(ENDS, len(scored) - ENDS) :]]
        for part, columns, rows in (
            ("classes", ["class", "iou"], scored),
            ("iou", ["class", "iou"], ends),
            ("confusions", ["confusion", "share"], result["confusions"].items()),
        ):
            table = pd.DataFrame(rows, columns=columns)
            table.to_csv(folder / part / f"{name}.csv", index=False, float_format="%.3f")
        predictor, names = scoring.candidate.predictor, result[EXAMPLES]
        picture = example_sheet(predictor, scoring.dataset, names)
        picture.save(folder / OVERLAYS / f"{name}.png")
