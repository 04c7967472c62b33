"""The scoring stages: the methods of a row on each benchmark, into metrics/."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from fmbseg.align.checkpoint import require_parameters
from fmbseg.evaluate.results import EXAMPLES, read_result
from fmbseg.evaluate.scoring import Candidate, Scoring, benchmark_scorings
from fmbseg.stage.stage import Stage
from fmbseg.store.digest import json_digest
from fmbseg.store.shards import StageReport

if TYPE_CHECKING:
    from PIL import Image


class Scores(Stage):
    """Scores with the heads that the stages have trained; the report counts shards.

    Heads must be of the present parameters. Images and labels they were trained on are not looked
    at: those may be elsewhere.
    """

    @cached_property
    def key(self) -> str:
        """The key of the one result, or a digest of all keys.

        Raises:
            StoreError: a head is missing, or was trained with other parameters.
            FmbsegError: as `Scoring.key`.
        """
        keys = [scoring.key for scoring in self.scorings]
        return keys[0] if len(keys) == 1 else json_digest(keys)

    @property
    def published(self) -> bool:
        """Whether all results are there under their keys."""
        return all(scoring.published for scoring in self.scorings)

    @cached_property
    def scorings(self) -> list[Scoring]:
        """Each method on each benchmark; raises as `key`."""
        work = self.work
        return [
            scoring
            for candidate in self._candidates.values()
            for scoring in benchmark_scorings(
                candidate, work.benchmarks, work.paths.metrics, work.progress
            )
        ]

    def run(self) -> StageReport:
        """See `Stage.run`."""
        reports = [scoring.run(self.work.attempt) for scoring in self.scorings]
        return StageReport(
            self.row.name,
            self.key,
            computed=sum(report.computed for report in reports),
            taken_over=sum(report.taken_over for report in reports),
            images=sum(report.images for report in reports),
        )

    def track(self) -> None:
        """See `Stage.track`; the run of the pipeline's own head gets pictures."""
        work = self.work
        for name, candidate in self._candidates.items():
            overlay = self._overlay if candidate.method.head == "align" else None
            work.tracker.evaluation(work.config, work.paths, name, work.benchmarks, overlay)

    @cached_property
    def _candidates(self) -> dict[str, Candidate]:
        config, paths = self.work.config, self.work.paths
        found = {name: Candidate(name, config, paths) for name in self.row.methods}
        for candidate in found.values():
            if candidate.method.head is not None and candidate.checkpoint is not None:
                require_parameters(candidate.checkpoint, config, candidate.method.head)
        return found

    def _overlay(self, benchmark: str) -> Image.Image:
        from fmbseg.evaluate.examples import example_sheet

        (scoring,) = (
            each
            for each in self.scorings
            if each.dataset.name == benchmark and each.candidate.method.head == "align"
        )
        names = read_result(scoring.target)[EXAMPLES]
        return example_sheet(scoring.candidate.predictor, scoring.dataset, names)
