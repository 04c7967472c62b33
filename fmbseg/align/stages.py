"""The stages that train a head: `align` on pseudo labels, `oracle` on ground truth."""

from __future__ import annotations

import csv
import shutil
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from fmbseg.align.checkpoint import (
    CheckpointInfo,
    ModelReference,
    load_checkpoint,
    save_checkpoint,
)
from fmbseg.align.controls import unseen_names, with_noise, without
from fmbseg.align.record import ELSEWHERE, GROUND_TRUTH, STAGE_1, SUPERVISION, Supervision
from fmbseg.data.label_maps import read_label_map
from fmbseg.data.labels import UNLABELLED, patch_majority
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.data.vocabulary.translation import translation
from fmbseg.errors import DataError
from fmbseg.models.weights import weights_digest
from fmbseg.pseudo.labels import label_folder, load_label
from fmbseg.stage.depends import content_key
from fmbseg.stage.row import LABEL, TRUTH
from fmbseg.stage.stage import Stage
from fmbseg.store.shards import ShardStore, StageReport

if TYPE_CHECKING:  # a head that is there is found without torch
    from fmbseg.align.features import PublishedFeatures
    from fmbseg.align.training import EpochRecord, OnMetrics, Target, TrainedHead

CURVE = "curve.csv"

Label = npt.NDArray[np.integer]


class Training(Stage):
    """Train a head towards some labels (equations 1-4).

    Out: `head.safetensors`, `checkpoint.json` and `curve.csv` (epoch, loss, lr). The report counts
    epochs: computed now, and taken over from an interrupted run.

    Attributes:
        method: what its runs are logged as.
        labels: the input that holds the labels.
    """

    method: ClassVar[str]
    labels: ClassVar[str]

    @property
    @abstractmethod
    def vocabularies(self) -> tuple[Vocabulary, ...]:
        """Classes of the labels; one vocabulary or several."""

    @abstractmethod
    def reader(self, words: Vocabulary) -> Callable[[str], Label]:
        """What gives the label map [H, W] of an image id in a vocabulary, 255 unlabelled."""

    @property
    @abstractmethod
    def supervision(self) -> Supervision:
        """Whose labels they are."""

    def corrected(self, words: Vocabulary) -> Collection[str]:
        """Ids of the images whose label map in a vocabulary is a person's, among a machine's."""
        return ()

    def run(self) -> StageReport:
        """See `Stage.run`.

        Raises:
            ConfigError, DataError: as `train_head`.
            WeightsError: the weights of CLIP or of the encoder are missing or damaged.
        """
        work, epochs = self.work, self.work.config.align.epochs
        if self.published:
            return StageReport(self.row.name, self.key, computed=0, taken_over=epochs)
        with work.tracker.training(
            work.config, self.method, self.place, lambda: self.key
        ) as on_metrics:
            computed = 0 if self._trained.has(0) else self._train(on_metrics)
            self._publish()
        return StageReport(self.row.name, self.key, computed, epochs - computed)

    def track(self) -> None:
        """See `Stage.track`."""
        self.work.tracker.trained(self.work.config, self.method, self.place)

    @cached_property
    def _trained(self) -> ShardStore:
        """The head under a key of its own: how it is to be asked is no part of its training."""
        params = tuple(n for n in self.row.depends.params if not n.startswith("evaluate."))
        depends = replace(self.row.depends, params=params)
        key = content_key(self.row.name, depends, self.work.config, self.inputs)
        training = self.work.paths.training
        return ShardStore(training.parent, training.name, key)

    def _train(self, on_metrics: OnMetrics | None) -> int:
        """Train the head into its store; returns the epochs done now."""
        from fmbseg.align.features import PublishedFeatures
        from fmbseg.align.training import STATE, Target, train_head
        from fmbseg.models.clip import load_clip

        config = self.work.config
        place = self.work.paths.encodings
        clip = load_clip(config.clip.model, self.device.device, text_cache=place)
        features = PublishedFeatures(self.require("features"), self.work)
        targets = []
        for words, (taught, table) in zip(self.vocabularies, self._taught, strict=True):
            text = clip.text_embeddings(taught, taught.templates or config.clip.templates)
            labels = [table[each] for each in self._patch_labels(features, words)]
            weights = self._weights(features.image_ids, words)
            targets.append(Target(labels, text.anchors, weights))
        trained = train_head(
            features.open(),
            targets,
            config.align,
            config.run.seed,
            self._trained.directory,
            self.work.progress,
            on_metrics,
            self.device,
        )
        with self._trained.write(0) as directory:
            save_checkpoint(directory, trained.head, self._info(_metrics(trained, targets)))
            _write_curve(directory / CURVE, trained.curve)
        (self._trained.directory / STATE).unlink(missing_ok=True)
        return config.align.epochs - trained.resumed

    def _publish(self) -> None:
        """The head with what it is to be asked with now."""
        store = ShardStore(self.work.paths.shards, self.row.name, self.key)
        trained = self._trained.shard_path(0)
        with store.write(0) as directory:
            checkpoint = load_checkpoint(trained)
            info = replace(checkpoint.info, inference=self.work.config.evaluate.inference)
            save_checkpoint(directory, checkpoint.head, info)
            shutil.copyfile(trained / CURVE, directory / CURVE)
        store.publish(self.place, count=1, manifest={})

    def _info(self, metrics: dict[str, float]) -> CheckpointInfo:
        config = self.work.config
        encoder, clip = config.features.encoder, config.clip.model
        return CheckpointInfo(
            encoder=ModelReference(encoder, weights_digest(encoder)),
            clip=ModelReference(clip, weights_digest(clip)),
            vocabularies=tuple(taught for taught, _ in self._taught),
            templates=config.clip.templates,
            short_side=config.features.short_side,
            inference=config.evaluate.inference,
            training={
                **config.align.model_dump(),
                "seed": config.run.seed,
                "labels": self.inputs[self.labels],
                SUPERVISION: asdict(self.supervision),
            },
            metrics=metrics,
        )

    @cached_property
    def _taught(self) -> list[tuple[Vocabulary, npt.NDArray[np.uint8]]]:
        """Each vocabulary as it is trained with, and [256] its index by the labels' own."""
        config, vocabularies = self.work.config, self.vocabularies
        names = unseen_names(vocabularies, config.align.unseen_names, config.run.seed)
        return [without(words, names) for words in vocabularies]

    def _weights(self, image_ids: Sequence[str], words: Vocabulary) -> list[float] | None:
        weight, corrected = self.work.config.align.correction_weight, self.corrected(words)
        if weight == 1 or not corrected:
            return None
        return [weight if image_id in corrected else 1.0 for image_id in image_ids]

    def _patch_labels(
        self, features: PublishedFeatures, words: Vocabulary
    ) -> list[npt.NDArray[np.uint8]]:
        # One byte a patch: a vocabulary has at most 255 classes, and they are all kept in memory.
        section, seed = self.work.config.align, self.work.config.run.seed
        read, labels = self.reader(words), []
        with self.work.progress.task(f"labels for {self.row.name}", len(features.grids)) as task:
            for image_id, grid in zip(features.image_ids, features.grids, strict=True):
                label = with_noise(read(image_id), section.label_noise, len(words), seed, image_id)
                labels.append(patch_labels(label, grid, section.purity).astype(np.uint8))
                task.advance()
        return labels


class Align(Training):
    """Stage 2: train the head on the pseudo labels of stage 1, or on those of `data.labels`."""

    method = "fmbseg"
    labels = LABEL

    @property
    def vocabularies(self) -> tuple[Vocabulary, ...]:
        """See `Training`."""
        return self.work.vocabularies

    def reader(self, words: Vocabulary) -> Callable[[str], Label]:
        """See `Training`."""
        maps = self.work.label_maps
        if maps is None:
            folder = self.require(LABEL) / label_folder(self.vocabularies, words)
            return lambda image_id: load_label(folder / f"{image_id}.png")
        records = {record.image_id: record for record in self.work.images.records}

        def read(image_id: str) -> Label:
            record = records[image_id]
            return read_label_map(maps[image_id], (record.height, record.width), len(words))

        return read

    @property
    def supervision(self) -> Supervision:
        """See `Training`."""
        merged = self.work.merged
        origin = STAGE_1 if self.work.label_maps is None else ELSEWHERE
        if merged is None:
            return Supervision(origin)
        return Supervision(origin, len(merged.images), merged.changed)

    def corrected(self, words: Vocabulary) -> Collection[str]:
        """See `Training`."""
        merged = self.work.merged
        return merged.images if merged is not None and merged.classes == words.names else ()


class Oracle(Training):
    """Train the same head on the same features with ground truth.

    Besides scoring this is the only reader of annotations; no pseudo labels are needed. The truth
    is in the data set's own names, and in those of `data.vocabulary` in which it can be said: what
    has no class there is unlabelled.
    """

    method = "oracle"
    labels = TRUTH

    @property
    def vocabularies(self) -> tuple[Vocabulary, ...]:
        """See `Training`; the data set's own comes first."""
        own = self.work.dataset.vocabulary
        others = [words for words in self.work.vocabularies if words.names != own.names]
        return (own, *(w for w in others if (translation(own, w) != UNLABELLED).any()))

    @property
    def supervision(self) -> Supervision:
        """See `Training`."""
        return Supervision(GROUND_TRUTH)

    def reader(self, words: Vocabulary) -> Callable[[str], Label]:
        """See `Training`."""
        dataset = self.work.dataset
        places = {image_id: index for index, (image_id, _) in enumerate(dataset.image_files)}
        table = translation(dataset.vocabulary, words)

        def read(image_id: str) -> Label:
            label = dataset[places[image_id]].label
            if label is None:
                raise DataError(
                    f"{dataset.name}: {image_id} has no annotation, the oracle needs all"
                )
            return table[label]

        return read


def patch_labels(
    label: npt.NDArray[np.integer], grid: tuple[int, int], purity: float
) -> npt.NDArray[np.int64]:
    """Majority label under each patch of a grid laid over the whole image (see `patch_majority`).

    Args:
        label: [H, W] class indices, 255 where unlabelled.
        grid: (h, w) patches.
        purity: least share (0 to 1) of the whole patch, unlabelled pixels included, that the
            majority label covers; a patch below it is unlabelled. A patch without any labelled
            pixel is unlabelled also at 0.

    Returns:
        [h, w] int64, 255 where unlabelled.
    """
    majority, share = patch_majority(label, grid, ignore=UNLABELLED)
    return np.where(share < purity, UNLABELLED, majority)


def _metrics(trained: TrainedHead, targets: Sequence[Target]) -> dict[str, float]:
    labels = [label for target in targets for label in target.labels]
    patches = sum(label.size for label in labels)
    labelled = sum(int(np.count_nonzero(label != UNLABELLED)) for label in labels)
    return {"loss": trained.curve[-1].loss, "labelled_patches": labelled / patches}


def _write_curve(path: Path, curve: Sequence[EpochRecord]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["epoch", "loss", "lr"])
        writer.writerows([row.epoch, repr(row.loss), repr(row.lr)] for row in curve)
