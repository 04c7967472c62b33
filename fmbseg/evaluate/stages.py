"""The scoring stages: each method on each benchmark, into metrics/<method>/<benchmark>.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmbseg.config import BenchmarkRoot, Config
from fmbseg.data.datasets import SegmentationDataset, load_dataset
from fmbseg.evaluate.benchmark import evaluate_benchmark, write_result
from fmbseg.evaluate.predictors import METHODS, Predictor, load_predictor
from fmbseg.paths import Paths
from fmbseg.progress import Progress
from fmbseg.store import StageReport, json_digest


def evaluate(
    config: Config,
    paths: Paths,
    progress: Progress,
    method: str,
    benchmarks: Sequence[str] | None = None,
) -> StageReport:
    """Score one method on benchmarks of `evaluate.benchmarks` (all of them by default).

    Raises:
        DataError: a benchmark is missing or has no labels.
        CheckpointError: the method's head is not trained yet.
    """
    assert method in METHODS
    checkpoint = paths.oracle if method == "oracle" else paths.align
    predictor = load_predictor(method, config, checkpoint)
    names = list(config.evaluate.benchmarks) if benchmarks is None else list(benchmarks)
    results = []
    for name in names:
        entry = config.evaluate.benchmarks[name]
        result = score(name, method, predictor, paths.root / entry.root, entry, progress)
        write_result(result, paths.metrics / method / f"{name}.json")
        results.append(result)
    key = json_digest([method, *results])
    return StageReport(f"evaluate {method}", key, sum(r["images"] for r in results), 0)


def score(
    benchmark: str,
    method: str,
    predictor: Predictor,
    root: Path,
    entry: BenchmarkRoot,
    progress: Progress,
) -> dict[str, Any]:
    """Load one benchmark and score a method on it; see `evaluate_benchmark`."""
    dataset: SegmentationDataset = load_dataset(benchmark, root, entry.split)
    return evaluate_benchmark(benchmark, method, predictor, dataset, root, progress, entry.limit)


def read_results(metrics: Path) -> list[dict[str, Any]]:
    """All results below a metrics folder, by method and benchmark."""
    return [json.loads(path.read_text()) for path in sorted(metrics.glob("*/*.json"))]
