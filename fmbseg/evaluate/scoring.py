"""A method on a benchmark: its content key, its work in shards, and its result file.

The one way to a score, for stages and commands. Pixel counts are kept as shards under the content
key, so a run that was killed goes on, and a result whose `key` fits is taken as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmbseg.align.checkpoint import CheckpointRecord, load_record
from fmbseg.align.record import SUPERVISION, Supervision, supervision_of
from fmbseg.config import Config
from fmbseg.data.datasets import Sample, SegmentationDataset, load_dataset
from fmbseg.data.drawn import SCENE_OBJECTS
from fmbseg.data.truth import truth_digest
from fmbseg.data.vocabulary import Vocabulary, reworded
from fmbseg.data.vocabulary.grouping import Grouping
from fmbseg.errors import ConfigError, DataError, StoreError
from fmbseg.evaluate.benchmark import (
    PixelCounts,
    benchmark_result,
    count_pixels,
    held_out_images,
    scored_as,
)
from fmbseg.evaluate.methods import find_method
from fmbseg.evaluate.results import (
    EXAMPLES,
    Result,
    chosen_examples,
    read_result,
    result_bytes,
    write_result,
)
from fmbseg.machine.progress import Progress
from fmbseg.models.weights import model_digest
from fmbseg.stage.depends import SCORING, content_key
from fmbseg.store.digest import file_digest
from fmbseg.store.paths import Paths
from fmbseg.store.shards import (
    Attempt,
    ShardedWork,
    ShardStore,
    StageReport,
    once,
    published_digest,
    published_key,
)

if TYPE_CHECKING:  # what asks for a key needs no torch
    from fmbseg.evaluate.methods.predictor import Predictor

_COUNTS = "counts.npz"
_RECORD = "record.json"
_NAMED = 5


class Candidate:
    """A method with its head; models are loaded once, when something is to be scored.

    Args:
        name: one of `METHODS`.
        config: all sections.
        paths: the workspace.
        checkpoint: folder of the head; None: the one that the method's stage trains.

    Raises:
        ConfigError: no such method.
    """

    def __init__(
        self, name: str, config: Config, paths: Paths, checkpoint: Path | None = None
    ) -> None:
        self.method = find_method(name)
        self.config = config
        self.paths = paths
        self.checkpoint = checkpoint or self.method.head_folder(paths)

    @cached_property
    def predictor(self) -> Predictor:
        """Its models, loaded; raises as `load_predictor`."""
        from fmbseg.evaluate.methods.predictor import load_predictor

        encodings = self.paths.benchmark_encodings
        folder = self.checkpoint or self.method.made_folder(self.paths)
        return load_predictor(self.method.name, self.config, folder, encodings)

    @cached_property
    def head(self) -> CheckpointRecord | None:
        """What its head is; None: it has none. Raises CheckpointError as `load_record`."""
        return None if self.checkpoint is None else load_record(self.checkpoint)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What of its head and the head's models decides labels, for content keys.

        Raises:
            CheckpointError: the head is missing or damaged.
            StoreError: what else it works with is.
            WeightsError: the weights of one of its models are missing.
        """
        if (made := self.method.made_folder(self.paths)) is not None:
            if published_key(made) is None:
                raise StoreError(
                    f"{self.method.name} needs {made}: run `fmbseg run {self.method.made}` first"
                )
            return {"made": published_digest(made)}
        if self.head is None:
            return {}
        head = self.head
        models = (head.info.encoder.name, head.info.clip.name)
        trained_on = [[words.name, words.digest] for words in head.info.vocabularies]
        return {
            "head": [head.sha256, asdict(head.form), head.info.templates, trained_on],
            "models": {name: model_digest(name) for name in models},
        } | ({} if self.supervision is None else {SUPERVISION: asdict(self.supervision)})

    @property
    def supervision(self) -> Supervision | None:
        """Whose labels its head was trained on; None: it has none, or it does not say."""
        return None if self.head is None else supervision_of(self.head.info.training)


@dataclass(frozen=True)
class Scoring:
    """One method on one benchmark.

    Attributes:
        candidate: the method.
        dataset: the benchmark's split; its name is the benchmark's.
        limit: how many of its first images are scored; None: all.
        vocabulary: the words its classes are asked with.
        target: the result file.
        progress: where progress is shown.
        grouping: of the classes, whose groups are scored too; None: they are not grouped.
    """

    candidate: Candidate
    dataset: SegmentationDataset
    limit: int | None
    vocabulary: Vocabulary
    target: Path
    progress: Progress
    grouping: Grouping | None = None

    @property
    def samples(self) -> SegmentationDataset:
        """What is scored."""
        return self.dataset[: self.limit]

    @cached_property
    def key(self) -> str:
        """The content key of the result.

        Raises:
            DataError: a sample has no truth, or cannot be read.
            CheckpointError, WeightsError: see `Candidate.inputs`.
        """
        candidate, dataset, vocabulary = self.candidate, self.dataset, self.vocabulary
        method = candidate.method
        # A missing checkpoint, first, should not cost the reading of all images.
        inputs = dict(candidate.inputs)
        if self._held_out is not None:
            inputs["scenes"] = file_digest(dataset.root / SCENE_OBJECTS)
        inputs |= {
            "benchmark": [dataset.name, dataset.split, self.limit],
            "vocabulary": [vocabulary.name, vocabulary.digest],
            "samples": self.samples_sha256,
        }
        if self.grouping is not None:
            inputs["groups"] = [self.grouping.names, self.grouping.of]
        depends = SCORING + method.depends_with(candidate.config)
        return content_key(f"evaluate-{method.name}", depends, candidate.config, inputs)

    @cached_property
    def samples_sha256(self) -> str:
        """Digest of the images and their truth."""
        return truth_digest(self.samples, self.progress, self.candidate.paths.manifests)

    @property
    def published(self) -> bool:
        """Whether the result is there under this key."""
        return self._published(self.target) is not None

    def shards(self) -> ShardedWork[Sample]:
        """The pixel counts, shard by shard."""
        candidate = self.candidate
        store = ShardStore(candidate.paths.shards, f"evaluate-{candidate.method.name}", self.key)
        return ShardedWork(store, self.samples, candidate.config.run.shard_size, self._count)

    def run(self, attempt: Attempt = once) -> StageReport:
        """Make the result file; what is there already is taken over. Counts shards.

        Args:
            attempt: called with the work of each shard.

        Raises:
            FmbsegError: see `key` and `load_predictor`.
            DataError: no pixel of the truth has a class.
        """
        candidate, work = self.candidate, self.shards()
        stage = f"evaluate-{candidate.method.name}"
        if not work.store.has(work.count - 1):
            # Without shards a result that is there under this key counts on its own.
            own = candidate.paths.metrics / candidate.method.name / f"{self.dataset.name}.json"
            for place in (self.target, own):
                if (published := self._published(place)) is not None:
                    _write(published, self.target)
                    return StageReport(stage, self.key, computed=0, taken_over=work.count)
        report = work.run(self.progress, attempt)
        _write(self._result(work), self.target)
        return report

    @cached_property
    def _held_out(self) -> frozenset[str] | None:
        return held_out_images(self.dataset.root)

    def _unseen(self, protocol: dict[str, Any]) -> tuple[str, ...] | None:
        head = self.candidate.head
        if head is None:
            return None
        asked = [w for w in head.info.vocabularies if w.name == protocol["projection"]]
        return self.vocabulary.unknown_to(asked)

    def _count(self, samples: Sequence[Sample], directory: Path) -> None:
        predictor = self.candidate.predictor
        counts = count_pixels(
            predictor,
            samples,
            self.vocabulary,
            self._held_out,
            self.candidate.config.evaluate.batch_size,
            benchmark=self.dataset.name,
        )
        counts.save(directory / _COUNTS)
        record = {
            "protocol": predictor.protocol(self.vocabulary),
            "checkpoint_sha256": predictor.checkpoint_sha256,
        }
        (directory / _RECORD).write_text(json.dumps(record), encoding="utf-8")

    def _result(self, work: ShardedWork[Sample]) -> Result:
        counts = PixelCounts(len(self.vocabulary))
        for index in range(work.count):
            counts.merge(PixelCounts.load(work.store.shard_path(index) / _COUNTS))
        if not counts.all.target_pixels.any():
            first = ", ".join(sample.image_id for sample in self.samples[:_NAMED])
            raise DataError(
                f"no pixel of {self.dataset.name} has a class ({counts.images} pictures: {first}"
                f"{', ...' if counts.images > _NAMED else ''}): look at its label maps, 255 is not "
                "scored"
            )
        record = json.loads((work.store.shard_path(0) / _RECORD).read_text(encoding="utf-8"))
        result = benchmark_result(
            self.dataset.name,
            self.candidate.method.name,
            counts,
            self.vocabulary,
            protocol=scored_as(self.dataset, self.limit, self.vocabulary) | record["protocol"],
            checkpoint_sha256=record["checkpoint_sha256"],
            scenes=self._held_out is not None,
            unseen=self._unseen(record["protocol"]),
            grouping=self.grouping,
        )
        supervision = self.candidate.supervision
        if supervision is not None:
            result[SUPERVISION] = asdict(supervision)
        return result | {
            EXAMPLES: chosen_examples([sample.image_id for sample in self.samples], counts.own),
            "samples_sha256": self.samples_sha256,
            "key": self.key,
        }

    def _published(self, place: Path) -> Result | None:
        try:
            result = read_result(place)
        except DataError:
            return None
        return result if result.get("key") == self.key else None


def benchmark_scorings(
    candidate: Candidate,
    benchmarks: Iterable[str],
    results: Path,
    progress: Progress,
    limit: int | None = None,
    words: str | None = None,
) -> list[Scoring]:
    """A method on benchmarks of `evaluate.benchmarks`, into `results`/<method>/<benchmark>.json.

    Args:
        candidate: the method.
        benchmarks: names.
        results: folder.
        progress: where progress is shown.
        limit: score the first images of each benchmark only.
        words: other words for the benchmarks' classes, see `reworded`; None: their own.

    Raises:
        ConfigError: no such benchmark.
        DataError: a benchmark is not where it should be, or has no labels.
        VocabularyError: the words do not fit.
    """
    section = candidate.config.evaluate
    scorings = []
    for name in benchmarks:
        entry = section.benchmarks.get(name)
        if entry is None:
            known = ", ".join(section.benchmarks) or "none"
            raise ConfigError(f"evaluate.benchmarks has no {name!r}: it has {known}")
        dataset = load_dataset(name, candidate.paths.root / entry.root, entry.split)
        dataset.require_labels()
        limits = [value for value in (limit, entry.limit) if value is not None]
        target = results / candidate.method.name / f"{name}.json"
        vocabulary = reworded(dataset.vocabulary, words)
        fewest = min(limits, default=None)
        scorings.append(Scoring(candidate, dataset, fewest, vocabulary, target, progress))
    return scorings


def _write(result: Result, target: Path) -> None:
    # A file that is as it should be keeps its time.
    if not target.is_file() or target.read_bytes() != result_bytes(result):
        write_result(result, target)
