"""Stages that draw what the present results are: one shard, published as it is."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

from fmbseg.align.checkpoint import require_parameters
from fmbseg.align.record import recorded_sha256
from fmbseg.errors import DataError, StoreError
from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.results import EXAMPLES, Result, read_result, result_bytes
from fmbseg.stage.stage import Stage, stage_class
from fmbseg.store.digest import json_digest
from fmbseg.store.shards import ShardStore, StageReport, published_digest


class Drawing(Stage):
    """Drawn from the results of the scoring stages that its row reads, and from other outs."""

    @abstractmethod
    def draw(self, folder: Path) -> None:
        """Write everything into an empty folder."""

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Results, heads and other outs. A result's own key names checkpoint, images and weights.

        Raises:
            StoreError: an out is missing, or was made with other parameters.
            DataError: a benchmark has not been scored with the present head.
        """
        found = {name: self._part(name) for name in self.row.inputs if not self._methods(name)}
        return found | {
            f"{method}/{benchmark}": json_digest(result_bytes(result).decode())
            for method, results in self.results.items()
            for benchmark, result in results.items()
        }

    def _part(self, name: str) -> str | None:
        work = self.work
        if name in {method.head for method in METHODS.values()}:
            # As it is scored: what it was trained on may be elsewhere.
            folder = work.paths.data / name
            require_parameters(folder, work.config, name)
            return recorded_sha256(folder)
        row = work.rows.get(name)
        if row is None or not any(map(self._methods, row.inputs)):
            return self.content(name)
        # Another drawing: its class knows what it is drawn from.
        earlier = stage_class(row)(row, work)
        if not earlier.published:
            raise StoreError(
                f"{self.row.name} needs {earlier.place} of the present results: run `fmbseg run "
                f"{name}` first"
            )
        return published_digest(earlier.place)

    @cached_property
    def results(self) -> dict[str, dict[str, Result]]:
        """Method -> benchmark -> result, all of `evaluate.benchmarks`; raises as `inputs`."""
        return {
            method: {
                benchmark: self._result(method, benchmark, name)
                for benchmark in self.work.config.evaluate.benchmarks
            }
            for name in self.row.inputs
            for method in self._methods(name)
        }

    def run(self) -> StageReport:
        """See `Stage.run`."""
        if self.published:
            return StageReport(self.row.name, self.key, computed=0, taken_over=1)
        store = ShardStore(self.work.paths.shards, self.row.name, self.key)
        there = store.has(0)
        if not there:
            with store.write(0) as folder:
                self.draw(folder)
        store.publish(self.place, count=1, manifest={})
        return StageReport(self.row.name, self.key, int(not there), int(there))

    def _methods(self, name: str) -> tuple[str, ...]:
        row = self.work.rows.get(name)
        return () if row is None else row.methods

    def _result(self, method: str, benchmark: str, stage: str) -> Result:
        paths = self.work.paths
        result = read_result(paths.metrics / method / f"{benchmark}.json")
        head = METHODS[method].head_folder(paths)
        present = None if head is None else recorded_sha256(head)
        if EXAMPLES not in result or result["checkpoint_sha256"] != present:
            raise DataError(
                f"the result of {method} on {benchmark} is not of the present head: run `fmbseg "
                f"run {stage}@{benchmark}`"
            )
        return result
