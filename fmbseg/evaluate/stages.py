"""The scoring stages: each method on each benchmark, into metrics/<method>/<benchmark>.json.

Pixel counts are kept as shards under the content key, so a run that was killed goes on, and a
result whose `key` fits is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fmbseg import predict
from fmbseg.align.checkpoint import CheckpointInfo, load_checkpoint, require_parameters
from fmbseg.config import Config
from fmbseg.data.datasets import Sample, SegmentationDataset, load_dataset
from fmbseg.data.vocabulary import Vocabulary, reworded
from fmbseg.device import set_threads
from fmbseg.errors import ConfigError, DataError
from fmbseg.evaluate.benchmark import (
    PixelCounts,
    benchmark_result,
    count_pixels,
    held_out_images,
    scored_as,
)
from fmbseg.evaluate.predictors import Predictor, load_predictor
from fmbseg.evaluate.results import METHODS, Result, read_result, result_bytes, write_result
from fmbseg.models.weights import model_digest
from fmbseg.paths import Paths
from fmbseg.progress import Progress
from fmbseg.pseudo.encodings import CLIP_SOURCES, SAM_SOURCES, TEXT_SOURCES
from fmbseg.store import (
    ShardedWork,
    ShardReport,
    ShardStore,
    StageReport,
    StageState,
    content_key,
    file_digest,
    json_digest,
)

_SCHEMA = 2
_COUNTS = "counts.npz"
_RECORD = "record.json"
_READERS = 4
_PACKAGE = Path(__file__).parents[1]
_SOURCES = (
    *(_PACKAGE / "evaluate" / f"{name}.py" for name in ("benchmark", "metrics", "predictors")),
    *(_PACKAGE / "evaluate" / f"{name}.py" for name in ("boundary", "decision", "protocol")),
    *(_PACKAGE / "evaluate" / f"{name}.py" for name in ("sliding", "sweep")),
    _PACKAGE / "data" / "windows.py",
    *(
        _PACKAGE / "data" / f"{name}.py"
        for name in ("datasets", "detail", "images", "layouts", "listing")
    ),
    Path(__file__),
    Path(predict.__file__),
    *CLIP_SOURCES,
    *TEXT_SOURCES,
)


@dataclass(frozen=True)
class _Method:
    """What decides a method's labels, besides the protocol that all share.

    Attributes:
        sections: sections of params.yaml.
        models: sections whose `model` names weights.
        sources: source files, besides those of all methods.
        trained: whether it has a checkpoint.
    """

    sections: tuple[str, ...]
    models: tuple[str, ...]
    sources: tuple[Path, ...]
    trained: bool = False


_TRAINED = _Method(
    sections=(),
    models=(),
    sources=(
        *(_PACKAGE / "align" / f"{name}.py" for name in ("checkpoint", "features", "heads")),
        *(_PACKAGE / "models" / f"{name}.py" for name in ("backbone", "timm_features")),
        _PACKAGE / "models" / "tiny" / "encoder.json",
    ),
    trained=True,
)
_METHODS: Mapping[str, _Method] = {
    "fmbseg": _TRAINED,
    "oracle": _TRAINED,
    "maskclip": _Method(
        sections=("clip",), models=("clip",), sources=(_PACKAGE / "pseudo" / "encodings.py",)
    ),
    "pseudo": _Method(
        sections=("clip", "detection", "query", "sam", "masks", "label"),
        models=("clip", "sam"),
        sources=(
            *SAM_SOURCES,
            *(
                _PACKAGE / "pseudo" / f"{name}.py"
                for name in (
                    "classification",
                    "detection",
                    "encodings",
                    "labels",
                    "pipeline",
                    "querying",
                )
            ),
        ),
    ),
}


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
        self._method = _METHODS[method]
        self._checkpoint = paths.oracle if method == "oracle" else paths.align

    def state(self, benchmark: str) -> StageState:
        dataset, limit = self._dataset(benchmark)
        key, _ = self._key(dataset, dataset[:limit], limit, self._words(dataset))
        return StageState(key, _published(self._target(benchmark), key) is not None)

    def run(self, benchmark: str) -> tuple[str, ShardReport]:
        dataset, limit = self._dataset(benchmark)
        samples, vocabulary = dataset[:limit], self._words(dataset)
        key, samples_sha256 = self._key(dataset, samples, limit, vocabulary)
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
        self,
        dataset: SegmentationDataset,
        samples: Sequence[Sample],
        limit: int | None,
        vocabulary: Vocabulary,
    ) -> tuple[str, str]:
        """The content key of a result, and the digest of the images and truth it is made on."""
        config, method = self._config, self._method
        inputs = {}
        if held_out_images(dataset.root) is not None:
            inputs["scenes"] = file_digest(dataset.root / "scenes.parquet")
        weights = {}
        for section in method.models:
            name = getattr(config, section).model
            weights[name] = model_digest(name)
        if method.trained:
            checkpoint = load_checkpoint(self._checkpoint)
            inputs["checkpoint"] = checkpoint.sha256
            inputs["checkpoint_info"] = _info_digest(checkpoint.info)
            for model in (checkpoint.info.encoder, checkpoint.info.clip):
                weights[model.name] = model_digest(model.name)
        # Last: a missing checkpoint should not cost the reading of all images.
        inputs["samples"] = _samples_digest(samples, self._progress)
        params: dict[str, Any] = {
            "evaluate": config.evaluate.model_dump(exclude={"benchmarks"}),
            "dtype": config.run.dtype,
            "split": dataset.split,
            "limit": limit,
            "vocabulary": [vocabulary.name, vocabulary.digest],
            "benchmark": dataset.name,
        }
        for section in method.sections:
            params[section] = getattr(config, section).model_dump()
        key = content_key(
            f"evaluate-{self._name}",
            schema=_SCHEMA,
            params=params,
            inputs=inputs,
            weights=weights,
            sources=(*_SOURCES, *method.sources),
            threads=config.run.threads,
        )
        return key, inputs["samples"]


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


def _samples_digest(samples: Sequence[Sample], progress: Progress) -> str:
    """Digest of images and truth as they are read, whatever files the truth lies in."""
    digests = []
    # Reading, decoding and hashing release the interpreter lock.
    with progress.task("digest", len(samples)) as task, ThreadPoolExecutor(_READERS) as pool:
        for digest in pool.map(_sample_digest, samples):
            digests.append(digest)
            task.advance(1)
    return json_digest(digests)


def _sample_digest(sample: Sample) -> list[str]:
    label = sample.label
    if label is None:
        raise DataError(f"{sample.image_path} has no annotation: score a split that has truth")
    # Labels are 0 to 255; eight times less to hash.
    values = hashlib.sha256(repr(label.shape).encode() + label.astype("uint8").tobytes())
    return [sample.image_id, file_digest(sample.image_path), values.hexdigest()]


def _info_digest(info: CheckpointInfo) -> str:
    # What inference reads; where and how the head was trained does not matter here.
    return json_digest([info.templates, info.encoder.name, info.clip.name])
