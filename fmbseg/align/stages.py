"""The stages that train a head: `align` on pseudo labels, `oracle` on ground truth."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fmbseg.align.checkpoint import CheckpointInfo, ModelReference, save_checkpoint
from fmbseg.align.features import PublishedFeatures, published_features
from fmbseg.align.patches import patch_labels
from fmbseg.align.training import STATE, EpochRecord, OnMetrics, TrainedHead, train_head
from fmbseg.config import Config
from fmbseg.data import labels as labels_module
from fmbseg.data.datasets import load_dataset
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError, StoreError
from fmbseg.machine.progress import Progress
from fmbseg.models import build, tiny
from fmbseg.models import clip as clip_module
from fmbseg.models import text as text_module
from fmbseg.models.clip import load_clip
from fmbseg.models.weights import model_digest, weights_digest
from fmbseg.pseudo.encodings import TEXT_SOURCES
from fmbseg.pseudo.labels import load_label
from fmbseg.pseudo.plan import Plan
from fmbseg.store.digest import content_key
from fmbseg.store.paths import Paths
from fmbseg.store.shards import (
    ShardStore,
    StageReport,
    StageState,
    is_published,
    published_digest,
    published_key,
)

CURVE = "curve.csv"
_SCHEMA = 1
_HERE = Path(__file__).parent
_SOURCES = (
    *(_HERE / f"{name}.py" for name in ("stages", "checkpoint", "heads", "losses", "patches")),
    _HERE / "training.py",
    Path(clip_module.__file__),
    Path(build.__file__),
    tiny.FOLDER / "clip.json",
    Path(text_module.__file__),
    Path(labels_module.__file__),
    *TEXT_SOURCES,
)

Label = npt.NDArray[np.integer]


def align(
    config: Config, paths: Paths, progress: Progress, on_metrics: OnMetrics | None = None
) -> StageReport:
    """Stage 2: train the head on the pseudo labels of stage 1 (equations 1-4).

    Out: `head.safetensors`, `checkpoint.json` and `curve.csv` (epoch, loss, lr). The report counts
    epochs: computed now, and taken over from an interrupted run.

    Args:
        config: all sections.
        paths: the workspace.
        progress: where progress is shown.
        on_metrics: called with (epoch, {"loss", "lr"}) after each epoch done now.

    Raises:
        StoreError: `label` or `features` has not been run with this configuration.
        ConfigError, DataError: as `train_head`.
        WeightsError: the weights of CLIP or of the encoder are missing or damaged.
    """
    plan = Plan(config, paths, progress)
    return _Training(_pseudo_targets(paths, plan), config, paths, plan, progress).run(on_metrics)


def align_state(config: Config, paths: Paths, progress: Progress) -> StageState:
    """The content key of `align`'s result, and whether it is there; trains nothing.

    Raises:
        StoreError, ConfigError, DataError, WeightsError: as `align`.
    """
    plan = Plan(config, paths, progress)
    return _Training(_pseudo_targets(paths, plan), config, paths, plan, progress).state


def train_oracle(
    config: Config, paths: Paths, progress: Progress, on_metrics: OnMetrics | None = None
) -> StageReport:
    """Train the same head on the same features with ground truth: the ceiling for `align`.

    Besides scoring this is the only reader of annotations. The vocabulary is the data set's own.
    Out, arguments and errors as `align`, into `data/oracle`; needs no pseudo labels.

    Raises:
        DataError: the data set has no annotations.
    """
    plan = Plan(config, paths, progress)
    return _Training(_true_targets(config, paths), config, paths, plan, progress).run(on_metrics)


def oracle_state(config: Config, paths: Paths, progress: Progress) -> StageState:
    """As `align_state`, for `train_oracle`."""
    plan = Plan(config, paths, progress)
    return _Training(_true_targets(config, paths), config, paths, plan, progress).state


@dataclass(frozen=True)
class _Targets:
    """What a head is trained towards.

    Attributes:
        stage: its name.
        destination: folder of the out.
        vocabulary: classes of the labels.
        read: image id -> label map [H, W], 255 unlabelled.
        digest: of all label maps; None: the patch labels have to be read to know it.
    """

    stage: str
    destination: Path
    vocabulary: Vocabulary
    read: Callable[[str], Label]
    digest: str | None


def _pseudo_targets(paths: Paths, plan: Plan) -> _Targets:
    if published_key(paths.label) is None:
        raise StoreError(f"align needs {paths.label}: run `fmbseg run label` first")
    if not is_published(paths.label, plan.key("label")):
        raise StoreError(
            f"align: {paths.label} is damaged or was made with other images, parameters, weights "
            "or code: run `fmbseg run label` again first"
        )

    def read(image_id: str) -> Label:
        return load_label(paths.label / "labels" / f"{image_id}.png")

    digest = published_digest(paths.label)
    return _Targets("align", paths.align, plan.vocabulary, read, digest)


def _true_targets(config: Config, paths: Paths) -> _Targets:
    data = config.data
    dataset = load_dataset(data.name, paths.root / data.root, data.split)[: data.limit]
    dataset.require_labels()
    places = {sample.image_id: index for index, sample in enumerate(dataset)}

    def read(image_id: str) -> Label:
        label = dataset[places[image_id]].label
        if label is None:
            raise DataError(f"{data.name}: {image_id} has no annotation, the oracle needs all")
        return label

    return _Targets("oracle", paths.oracle, dataset.vocabulary, read, None)


class _Training:
    """One training towards given targets: its key, and the run itself."""

    def __init__(
        self, targets: _Targets, config: Config, paths: Paths, plan: Plan, progress: Progress
    ) -> None:
        self._targets = targets
        self._config = config
        self._paths = paths
        self._plan = plan
        self._progress = progress
        self._features = published_features(config, paths, progress, plan.manifest)
        self._templates = targets.vocabulary.templates or config.clip.templates
        encoder, clip = config.features.encoder, config.clip.model
        self._encoder = ModelReference(encoder, weights_digest(encoder))
        self._clip = ModelReference(clip, weights_digest(clip))

    @cached_property
    def state(self) -> StageState:
        return StageState(self._key, is_published(self._targets.destination, self._key))

    def run(self, on_metrics: OnMetrics | None) -> StageReport:
        key, targets, config = self._key, self._targets, self._config
        epochs = config.align.epochs
        if self.state.published:
            return StageReport(targets.stage, key, computed=0, taken_over=epochs)
        training = self._paths.training
        store = ShardStore(training.parent, training.name, key)
        computed = 0
        if not store.has(0):
            clip = load_clip(
                self._clip.name, self._plan.device.device, text_cache=self._paths.encodings
            )
            text = clip.text_embeddings(targets.vocabulary, self._templates)
            trained = train_head(
                self._features.open(),
                self._labels,
                text.anchors,
                config.align,
                config.run.seed,
                store.directory,
                self._progress,
                on_metrics,
                self._plan.device,
            )
            computed = epochs - trained.resumed
            info = CheckpointInfo(
                encoder=self._encoder,
                clip=self._clip,
                vocabulary=targets.vocabulary,
                templates=config.clip.templates,
                short_side=config.features.short_side,
                training={
                    **config.align.model_dump(),
                    "seed": config.run.seed,
                    "labels": self._digest,
                },
                metrics=_metrics(trained, self._labels),
            )
            with store.write(0) as directory:
                save_checkpoint(directory, trained.head, info)
                _write_curve(directory / CURVE, trained.curve)
            (store.directory / STATE).unlink(missing_ok=True)
        store.publish(targets.destination, count=1, manifest={})
        return StageReport(targets.stage, key, computed, epochs - computed)

    @cached_property
    def _labels(self) -> list[npt.NDArray[np.uint8]]:
        return _patch_labels(self._targets, self._features, self._config, self._progress)

    @cached_property
    def _digest(self) -> str:
        return self._targets.digest or _arrays_digest(self._labels)

    @cached_property
    def _key(self) -> str:
        config, vocabulary = self._config, self._targets.vocabulary
        return content_key(
            self._targets.stage,
            schema=_SCHEMA,
            params={
                "align": config.align.model_dump(),
                "seed": config.run.seed,
                "dtype": config.run.dtype,
                "short_side": config.features.short_side,
                "templates": [self._templates, config.clip.templates],
                "vocabulary": [vocabulary.name, vocabulary.digest],
            },
            inputs={"labels": self._digest, "features": published_digest(self._paths.features)},
            weights={model.name: model_digest(model.name) for model in (self._encoder, self._clip)},
            sources=_SOURCES,
            threads=config.run.threads,
        )


def _patch_labels(
    targets: _Targets, features: PublishedFeatures, config: Config, progress: Progress
) -> list[npt.NDArray[np.uint8]]:
    # One byte a patch: a vocabulary has at most 255 classes, and they are all kept in memory.
    labels = []
    with progress.task(f"labels for {targets.stage}", len(features.grids)) as task:
        for image_id, grid in zip(features.image_ids, features.grids, strict=True):
            patches = patch_labels(targets.read(image_id), grid, config.align.purity)
            labels.append(patches.astype(np.uint8))
            task.advance()
    return labels


def _metrics(trained: TrainedHead, labels: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
    patches = sum(label.size for label in labels)
    labelled = sum(int(np.count_nonzero(label != UNLABELLED)) for label in labels)
    return {"loss": trained.curve[-1].loss, "labelled_patches": labelled / patches}


def _write_curve(path: Path, curve: Sequence[EpochRecord]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["epoch", "loss", "lr"])
        writer.writerows([row.epoch, repr(row.loss), repr(row.lr)] for row in curve)


def _arrays_digest(arrays: Sequence[npt.NDArray[np.uint8]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
