"""The stages that train a head: `align` on pseudo labels, `oracle` on ground truth."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.align.checkpoint import CheckpointInfo, ModelReference, save_checkpoint
from fmbseg.align.features import PublishedFeatures, published_features
from fmbseg.align.losses import IGNORE
from fmbseg.align.patches import patch_labels
from fmbseg.align.training import STATE, EpochRecord, OnMetrics, TrainedHead, train_head
from fmbseg.config import Config
from fmbseg.data.datasets import load_dataset
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError, StoreError
from fmbseg.models import clip as clip_module
from fmbseg.models import text as text_module
from fmbseg.models.clip import load_clip
from fmbseg.models.weights import weights_digest
from fmbseg.paths import Paths
from fmbseg.progress import Progress
from fmbseg.pseudo.encodings import TEXT_SOURCES
from fmbseg.pseudo.labels import load_label
from fmbseg.pseudo.plan import Plan
from fmbseg.store import (
    ShardStore,
    StageReport,
    content_key,
    is_published,
    json_digest,
    published_key,
)

CURVE = "curve.csv"
_SCHEMA = 1
_HERE = Path(__file__).parent
_SOURCES = (
    *(_HERE / f"{name}.py" for name in ("stages", "checkpoint", "heads", "losses", "patches")),
    _HERE / "training.py",
    Path(clip_module.__file__),
    Path(text_module.__file__),
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
    if published_key(paths.label) is None:
        raise StoreError(f"align needs {paths.label}: run `fmbseg run label` first")
    if not is_published(paths.label, plan.key("label")):
        raise StoreError(
            f"align: {paths.label} is damaged or was made with other images, parameters, weights "
            "or code: run `fmbseg run label` again first"
        )

    def read(image_id: str) -> Label:
        return load_label(paths.label / "labels" / f"{image_id}.png")

    digest = _files_digest(paths.label)
    targets = _Targets("align", paths.align, plan.vocabulary, read, digest)
    return _train(targets, config, paths, plan, progress, on_metrics)


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
    data = config.data
    dataset = load_dataset(data.name, paths.root / data.root, data.split)[: data.limit]
    dataset.require_labels()
    places = {sample.image_id: index for index, sample in enumerate(dataset)}

    def read(image_id: str) -> Label:
        label = dataset[places[image_id]].label
        if label is None:
            raise DataError(f"{data.name}: {image_id} has no annotation, the oracle needs all")
        return label

    targets = _Targets("oracle", paths.oracle, dataset.vocabulary, read, None)
    return _train(targets, config, paths, plan, progress, on_metrics)


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


def _train(
    targets: _Targets,
    config: Config,
    paths: Paths,
    plan: Plan,
    progress: Progress,
    on_metrics: OnMetrics | None,
) -> StageReport:
    features = published_features(config, paths, progress, plan.manifest)
    labels: list[npt.NDArray[np.uint8]] | None = None
    digest = targets.digest
    if digest is None:
        labels = _patch_labels(targets, features, config, progress)
        digest = _arrays_digest(labels)
    templates = targets.vocabulary.templates or config.clip.templates
    encoder = ModelReference(config.features.encoder, weights_digest(config.features.encoder))
    clip = ModelReference(config.clip.model, weights_digest(config.clip.model))
    key = content_key(
        targets.stage,
        schema=_SCHEMA,
        params={
            "align": config.align.model_dump(),
            "seed": config.run.seed,
            "dtype": config.run.dtype,
            "short_side": config.features.short_side,
            "templates": [templates, config.clip.templates],
            "vocabulary": [targets.vocabulary.name, targets.vocabulary.digest],
        },
        inputs={"labels": digest, "features": _files_digest(paths.features)},
        weights={encoder.name: encoder.sha256, clip.name: clip.sha256},
        sources=_SOURCES,
        threads=config.run.threads,
    )
    epochs = config.align.epochs
    if is_published(targets.destination, key):
        return StageReport(targets.stage, key, computed=0, taken_over=epochs)
    store = ShardStore(paths.training.parent, paths.training.name, key)
    computed = 0
    if not store.has(0):
        if labels is None:
            labels = _patch_labels(targets, features, config, progress)
        text = load_clip(clip.name, plan.device.device).text_embeddings(
            targets.vocabulary, templates
        )
        trained = train_head(
            features.open(),
            labels,
            text.anchors,
            config.align,
            config.run.seed,
            store.directory,
            progress,
            on_metrics,
            plan.device,
        )
        computed = epochs - trained.resumed
        info = CheckpointInfo(
            encoder=encoder,
            clip=clip,
            vocabulary=targets.vocabulary,
            templates=config.clip.templates,
            short_side=config.features.short_side,
            training={**config.align.model_dump(), "seed": config.run.seed, "labels": digest},
            metrics=_metrics(trained, labels),
        )
        with store.write(0) as directory:
            save_checkpoint(directory, trained.head, info)
            _write_curve(directory / CURVE, trained.curve)
        (store.directory / STATE).unlink(missing_ok=True)
    store.publish(targets.destination, count=1, manifest={})
    return StageReport(targets.stage, key, computed, epochs - computed)


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
    labelled = sum(int(np.count_nonzero(label != IGNORE)) for label in labels)
    return {"loss": trained.curve[-1].loss, "labelled_patches": labelled / patches}


def _write_curve(path: Path, curve: Sequence[EpochRecord]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["epoch", "loss", "lr"])
        writer.writerows([row.epoch, repr(row.loss), repr(row.lr)] for row in curve)


def _files_digest(destination: Path) -> str:
    """Digest of what an out holds, whatever key it was made under."""
    manifest: dict[str, Any] = json.loads((destination / "manifest.json").read_text("utf-8"))
    return json_digest([manifest["files"], manifest.get("feature_shards")])


def _arrays_digest(arrays: Sequence[npt.NDArray[np.uint8]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
