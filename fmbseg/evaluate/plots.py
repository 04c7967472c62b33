"""The stage plots: what `dvc plots show` draws of the trained segmenter's results.

`iou/<benchmark>.csv` (class, iou), `confusions/<benchmark>.csv` (confusion, share) and
`overlays/<benchmark>.png`: a good, a middling and a bad picture, each beside its truth.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fmbseg.align.checkpoint import load_checkpoint, require_parameters
from fmbseg.errors import DataError
from fmbseg.evaluate.examples import example_sheet
from fmbseg.evaluate.results import Result, read_result, result_bytes
from fmbseg.evaluate.scoring import Candidate, Scoring, benchmark_scorings
from fmbseg.stage.stage import Stage
from fmbseg.store.digest import json_digest
from fmbseg.store.shards import ShardStore, StageReport

METHOD = "fmbseg"


class Plots(Stage):
    """The plots of all of `evaluate.benchmarks`, scored with the present head."""

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The results. Each one's own key names checkpoint, images and weights.

        Raises:
            StoreError: the head is missing, or was trained with other parameters.
            DataError: a benchmark has not been scored with the present head.
        """
        return {
            name: json_digest(result_bytes(result).decode())
            for name, result in self._results.items()
        }

    def run(self) -> StageReport:
        """See `Stage.run`."""
        if self.published:
            return StageReport(self.row.name, self.key, computed=0, taken_over=1)
        store = ShardStore(self.work.paths.shards, self.row.name, self.key)
        there = store.has(0)
        if not there:
            with store.write(0) as folder:
                self._draw(folder)
        store.publish(self.place, count=1, manifest={})
        return StageReport(self.row.name, self.key, int(not there), int(there))

    @cached_property
    def _results(self) -> dict[str, Result]:
        paths, config = self.work.paths, self.work.config
        require_parameters(paths.align, config, "align")
        head = load_checkpoint(paths.align).sha256
        results = {
            name: read_result(paths.metrics / METHOD / f"{name}.json")
            for name in config.evaluate.benchmarks
        }
        for name, result in results.items():
            if "confusions" not in result or result["checkpoint_sha256"] != head:
                raise DataError(
                    f"the result of {name} is not of the present head: run `fmbseg run "
                    f"evaluate@{name}`"
                )
        return results

    def _draw(self, folder: Path) -> None:
        work = self.work
        for name in ("iou", "confusions", "overlays"):
            (folder / name).mkdir()
        candidate = Candidate(METHOD, work.config, work.paths)
        with work.progress.task(self.row.name, len(self._results)) as task:
            for scoring in benchmark_scorings(
                candidate, self._results, work.paths.metrics, work.progress
            ):
                self._draw_one(folder, scoring)
                task.advance()

    def _draw_one(self, folder: Path, scoring: Scoring) -> None:
        name = scoring.dataset.name
        result = self._results[name]
        for part, key, columns in (
            ("iou", "per_class_iou", ["class", "iou"]),
            ("confusions", "confusions", ["confusion", "share"]),
        ):
            rows = [(label, value) for label, value in result[key].items() if value is not None]
            table = pd.DataFrame(rows, columns=columns)
            table.to_csv(folder / part / f"{name}.csv", index=False, float_format="%.3f")
        picture = example_sheet(scoring.candidate.predictor, scoring.dataset)
        picture.save(folder / "overlays" / f"{name}.png")
