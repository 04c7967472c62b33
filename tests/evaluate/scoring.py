"""One benchmark scored in a workspace, for the tests of scores and of scored heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fmbseg.config import Config
from fmbseg.evaluate.scoring import Candidate, Scoring, benchmark_scorings
from fmbseg.machine.progress import silent_progress
from fmbseg.store.paths import Paths
from fmbseg.store.shards import StageReport


def scoring(
    config: Config, paths: Paths, method: str = "fmbseg", results: Path | None = None, **more: Any
) -> Scoring:
    candidate, target = Candidate(method, config, paths), results or paths.metrics
    (one,) = benchmark_scorings(candidate, ["coco_stuff"], target, silent_progress(), **more)
    return one


def run(config: Config, paths: Paths, method: str = "fmbseg") -> StageReport:
    return scoring(config, paths, method).run()


def result_file(paths: Paths, method: str = "fmbseg") -> Path:
    return paths.metrics / method / "coco_stuff.json"
