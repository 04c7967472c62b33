"""The scoring stages: each method on each benchmark, into metrics/<method>/<benchmark>.json.

Pixel counts are kept as shards under the content key, so a run that was killed goes on, and a
result whose `key` fits is taken as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from fmbseg.align.checkpoint import require_parameters
from fmbseg.config import Config
from fmbseg.data.datasets import Sample, SegmentationDataset, load_dataset
from fmbseg.data.vocabulary import Vocabulary, reworded
from fmbseg.errors import ConfigError, DataError
from fmbseg.evaluate.benchmark import (
    PixelCounts,
    benchmark_result,
    count_pixels,
    held_out_images,
    scored_as,
)
from fmbseg.evaluate.keys import result_key
from fmbseg.evaluate.predictors import Predictor, load_predictor
from fmbseg.evaluate.results import METHODS, Result, read_result, result_bytes, write_result
from fmbseg.machine.device import set_threads
from fmbseg.machine.progress import Progress
from fmbseg.store.digest import json_digest
from fmbseg.store.paths import Paths
from fmbseg.store.shards import ShardedWork, ShardReport, ShardStore, StageReport, StageState

_COUNTS = "counts.npz"
_RECORD = "record.json"


def evaluate(
    config: Config,
    paths: Paths,
    progress: Progress,
    method: str,
    benchmarks: Sequence[str] | None = None,
) -> StageReport:
    """Score one method on benchmarks of `evaluate.benchmarks` (all of them by default).

    The report counts shards, summed over the benchmarks.

    Raises:
        ConfigError: no such method or benchmark.
        StoreError: the head of the method fmbseg was trained with other parameters.
        DataError: a benchmark is missing or has no labels.
        CheckpointError: the method's head is not trained yet, or with other weights.
        WeightsError: the weights of a model are missing or damaged.
    """
    _require_head(config, paths, method)
    names = tuple(config.evaluate.benchmarks) if benchmarks is None else tuple(benchmarks)
    reports = list(evaluate_each(config, paths, progress, method, names, paths.metrics))
    return StageReport(
        stage=f"evaluate {method}",
        key=reports[0].key if len(reports) == 1 else json_digest([each.key for each in reports]),
        computed=sum(report.computed for report in reports),
        taken_over=sum(report.taken_over for report in reports),
        images=sum(report.images for report in reports),
    )


def evaluate_each(
    config: Config,
    paths: Paths,
    progress: Progress,
    method: str,
    benchmarks: Sequence[str],
    results: Path,
    advance: Callable[[int], None] | None = None,
    vocabulary: str | None = None,
) -> Iterator[StageReport]:
    """Score one method on one benchmark after the other, with whatever head is there.

    Args:
        config: all sections.
        paths: the workspace.
        progress: where progress is shown.
        method: one of `METHODS`.
        benchmarks: names out of `evaluate.benchmarks`.
        results: where `<method>/<benchmark>.json` goes.
        advance: called with the number of images just scored or taken over.
        vocabulary: other words for the benchmarks' classes, see `reworded`; None: their own.

    Yields:
        A report for each benchmark, when its result is written.

    Raises:
        FmbsegError: as `evaluate`, but for the head's parameters.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    set_threads(config.run.threads)
    scoring = _Scoring(config, paths, progress, method, results, advance, vocabulary)
    for name in benchmarks:
        key, report = scoring.run(name)
        yield StageReport(
            f"evaluate {method}", key, report.computed, report.taken_over, report.records
        )


def scoring_state(
    config: Config, paths: Paths, progress: Progress, method: str, benchmark: str
) -> StageState:
    """The content key of one result, and whether it is there; scores nothing.

    Raises:
        ConfigError, StoreError, DataError, CheckpointError, WeightsError: as `evaluate`.
    """
    _require_head(config, paths, method)
    return _Scoring(config, paths, progress, method, paths.metrics).state(benchmark)


def _require_head(config: Config, paths: Paths, method: str) -> None:
    # The oracle's head is trained by the very stage that scores it.
    if method == "fmbseg":
        require_parameters(paths.align, config)


class _Scoring:
    """One method over several benchmarks; its models are loaded when something is to be done."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        progress: Progress,
        method: str,
        results: Path,
        advance: Callable[[int], None] | None = None,
        vocabulary: str | None = None,
    ) -> None:
        self._results = results
        self._vocabulary = vocabulary
        self._advance = advance or (lambda images: None)
        self._config = config
        self._paths = paths
        self._progress = progress
        self._name = method
        self._checkpoint = paths.oracle if method == "oracle" else paths.align

    def state(self, benchmark: str) -> StageState:
        dataset, limit = self._dataset(benchmark)
        key, _ = self._key(dataset, limit, self._words(dataset))
        return StageState(key, _published(self._target(benchmark), key) is not None)

    def run(self, benchmark: str) -> tuple[str, ShardReport]:
        dataset, limit = self._dataset(benchmark)
        samples, vocabulary = dataset[:limit], self._words(dataset)
        key, samples_sha256 = self._key(dataset, limit, vocabulary)
        target = self._target(benchmark)
        size = self._config.run.shard_size
        shards = -(-len(samples) // size)
        store = ShardStore(self._paths.shards, f"evaluate-{self._name}", key)
        if not store.has(shards - 1):
            # Without shards a result that is there under this key counts on its own.
            for place in (target, self._paths.metrics / self._name / f"{benchmark}.json"):
                if (published := _published(place, key)) is not None:
                    _write(published, target)
                    self._advance(len(samples))
                    return key, ShardReport(computed=0, taken_over=shards)
        scored = 0

        def advance(images: int) -> None:
            nonlocal scored
            scored += images
            self._advance(images)

        held_out = held_out_images(dataset.root)

        def process(part: Sequence[Sample], directory: Path) -> None:
            counts = count_pixels(
                self._predictor,
                part,
                vocabulary,
                held_out,
                self._config.evaluate.batch_size,
                advance,
                benchmark,
            )
            counts.save(directory / _COUNTS)
            record = {
                "protocol": self._predictor.protocol(vocabulary),
                "checkpoint_sha256": self._predictor.checkpoint_sha256,
            }
            (directory / _RECORD).write_text(json.dumps(record), encoding="utf-8")

        report = ShardedWork(store, samples, size, process).run(self._progress)
        self._advance(len(samples) - scored)
        counts = PixelCounts(len(vocabulary))
        for index in range(shards):
            counts.merge(PixelCounts.load(store.shard_path(index) / _COUNTS))
        record = json.loads((store.shard_path(0) / _RECORD).read_text(encoding="utf-8"))
        result = benchmark_result(
            benchmark,
            self._name,
            counts,
            vocabulary,
            protocol=scored_as(dataset, limit, vocabulary) | record["protocol"],
            checkpoint_sha256=record["checkpoint_sha256"],
            scenes=held_out is not None,
        )
        result |= {"samples_sha256": samples_sha256, "key": key}
        _write(result, target)
        return key, report

    @cached_property
    def _predictor(self) -> Predictor:
        return load_predictor(
            self._name, self._config, self._checkpoint, self._paths.benchmark_encodings
        )

    def _target(self, benchmark: str) -> Path:
        return self._results / self._name / f"{benchmark}.json"

    def _dataset(self, benchmark: str) -> tuple[SegmentationDataset, int | None]:
        entry = self._config.evaluate.benchmarks.get(benchmark)
        if entry is None:
            known = ", ".join(self._config.evaluate.benchmarks) or "none"
            raise ConfigError(f"evaluate.benchmarks has no {benchmark!r}: it has {known}")
        dataset = load_dataset(benchmark, self._paths.root / entry.root, entry.split)
        dataset.require_labels()
        return dataset, entry.limit

    def _words(self, dataset: SegmentationDataset) -> Vocabulary:
        return reworded(dataset.vocabulary, self._vocabulary)

    def _key(
        self, dataset: SegmentationDataset, limit: int | None, vocabulary: Vocabulary
    ) -> tuple[str, str]:
        return result_key(
            self._config,
            self._name,
            self._checkpoint,
            dataset,
            limit,
            vocabulary,
            self._progress,
        )


def _write(result: Result, target: Path) -> None:
    # A file that is as it should be keeps its time.
    if not target.is_file() or target.read_bytes() != result_bytes(result):
        write_result(result, target)


def _published(target: Path, key: str) -> Result | None:
    try:
        result: Result = read_result(target)
    except DataError:
        return None
    return result if result.get("key") == key else None
