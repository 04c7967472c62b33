"""The stages detect, query, masks and label: stage 1 over all images, in shards on disk.

Each is a function of (config, workspace) that publishes one out. A stage whose out is there
under the same content key computes nothing; a stage whose inputs were made with other parameters
refuses to run on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.config import Config
from fmbseg.data.manifest import ImageRecord
from fmbseg.machine.progress import Progress
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.detection import detect_classes
from fmbseg.pseudo.encodings import ClipEncodings, MaskEncodings, say_made_again
from fmbseg.pseudo.labels import save_label
from fmbseg.pseudo.pipeline import classify_and_compose
from fmbseg.pseudo.plan import Plan
from fmbseg.pseudo.querying import query_masks, query_points
from fmbseg.pseudo.tables import (
    DETECTIONS,
    DETECTIONS_SCHEMA,
    MASKS,
    MASKS_SCHEMA,
    StoredMasks,
    encode_masks,
    rows_by_image,
    write_table,
)
from fmbseg.store.paths import Paths
from fmbseg.store.shards import ShardedWork, ShardStore, StageReport, StageState, is_published

Row = dict[str, Any]


def detect(config: Config, paths: Paths, progress: Progress) -> StageReport:
    """1.1 Detection: classes of every image and their query points.

    Out: `detections.parquet`, a row per image and detected class.

    Raises:
        DataError: the images are not as the data set's layout demands, or one is broken.
        VocabularyError, WeightsError: the vocabulary or CLIP's weights are missing or damaged.
    """
    return _run("detect", config, paths, progress)


def query(config: Config, paths: Paths, progress: Progress) -> StageReport:
    """1.1 Querying: SAM's most confident mask for the points of every detected class.

    Out: `masks.parquet`, a row per image and detected class; `similarity` is the detection's.

    Raises:
        StoreError: `detect` has not been run with this configuration.
        DataError, VocabularyError, WeightsError: as `detect`, for SAM's weights.
    """
    return _run("query", config, paths, progress)


def masks(config: Config, paths: Paths, progress: Progress) -> StageReport:
    """1.2: SAM's automatic masks of every image, filtered, not yet classified.

    Out: `masks.parquet`, a row per mask.

    Raises:
        DataError, WeightsError: as `query`.
    """
    return _run("masks", config, paths, progress)


def label(config: Config, paths: Paths, progress: Progress) -> StageReport:
    """1.2 Classification and composition: one label map an image.

    Out: `labels/<image_id>.png` (indexed, 255 unlabelled) and `masks.parquet` with all masks,
    their class and `similarity`: the cosine between the class's text and the mean CLIP patch
    feature under the mask, for masks of both sources. A mask's id counts on from the query masks
    of its image to the automatic ones.

    Raises:
        StoreError: `detect`, `query` or `masks` has not been run with this configuration.
        DataError, VocabularyError, WeightsError: as `detect`.
    """
    return _run("label", config, paths, progress)


def state(name: str, config: Config, paths: Paths, progress: Progress) -> StageState:
    """The content key of a stage's result, and whether its out is there; computes nothing.

    Raises:
        StoreError: an earlier stage has not been run with this configuration.
        DataError, VocabularyError, WeightsError: as the stage.
    """
    plan = Plan(config, paths, progress)
    key = plan.key(name)
    return StageState(key, is_published(plan.destination(name), key))


class _Stage:
    """One stage's work on the images of a shard; models load when the first is computed."""

    def __init__(self, config: Config, paths: Paths, plan: Plan) -> None:
        self.config = config
        self.paths = paths
        self.plan = plan

    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """Write the result of `records` into `directory`."""
        raise NotImplementedError

    def finish(self) -> None:
        """Called when all shards are there."""

    @cached_property
    def clip(self) -> ClipEncodings:
        return ClipEncodings(self.config, self.paths.encodings, self.plan.device)

    @cached_property
    def sam(self) -> MaskEncodings:
        return MaskEncodings(self.config, self.paths.encodings, self.plan.device)

    @cached_property
    def text(self) -> TextEmbeddings:
        return self.clip.model.text_embeddings(self.plan.vocabulary, self.plan.templates)

    def class_name(self, index: int) -> str:
        return self.plan.vocabulary.names[index]


class _Detect(_Stage):
    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        rows: list[Row] = []
        for record in records:
            encoding = self.clip.encode(record)
            found = detect_classes(
                encoding.windows, encoding.dense, self.text, self.config.detection
            )
            size = (record.width, record.height)
            count = self.config.query.points
            points = query_points(encoding.dense, self.text, found.classes, count, size)
            rows += [
                {
                    "image_id": record.image_id,
                    "class_index": int(index),
                    "class_name": self.class_name(index),
                    "votes": int(found.votes[row]),
                    "similarity": float(found.similarity[row]),
                    "points": points[row].reshape(-1).tolist(),
                }
                for row, index in enumerate(found.classes)
            ]
        write_table(directory / DETECTIONS, rows, DETECTIONS_SCHEMA)


class _Query(_Stage):
    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        ids = [record.image_id for record in records]
        detections = rows_by_image(self.paths.detect / DETECTIONS, ids)
        rows: list[Row] = []
        for record in records:
            found = detections[record.image_id]
            if not found:
                continue
            points = np.array([row["points"] for row in found], dtype=np.float32)
            queried, iou = query_masks(
                self.sam.model,
                self.sam.encode(record),
                points.reshape(len(found), -1, 2),
                self.config.sam.batch_size,
            )
            named = ("class_index", "class_name", "similarity")
            for row, detection in zip(
                _mask_rows(record, "query", queried, iou, None), found, strict=True
            ):
                rows.append(row | {name: detection[name] for name in named})
        write_table(directory / MASKS, rows, MASKS_SCHEMA)


class _Masks(_Stage):
    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        rows: list[Row] = []
        for record in records:
            found = self.sam.model.automatic_masks(
                self.sam.encode(record), self.config.masks, self.config.sam.batch_size
            )
            rows += _mask_rows(
                record, "automatic", found.masks, found.predicted_iou, found.stability
            )
        write_table(directory / MASKS, rows, MASKS_SCHEMA)

    def finish(self) -> None:
        if "sam" in self.__dict__:
            say_made_again("masks", self.config.sam.model, self.sam.made)


class _Label(_Stage):
    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        ids = [record.image_id for record in records]
        detections = rows_by_image(self.paths.detect / DETECTIONS, ids)
        queried = rows_by_image(self.paths.query / MASKS, ids)
        automatic = rows_by_image(self.paths.masks / MASKS, ids)
        rows: list[Row] = []
        for record in records:
            name = record.image_id
            rows += self._label(record, directory, detections[name], queried[name], automatic[name])
        write_table(directory / MASKS, rows, MASKS_SCHEMA)

    def _label(
        self,
        record: ImageRecord,
        directory: Path,
        detections: list[Row],
        queried: list[Row],
        automatic: list[Row],
    ) -> list[Row]:
        query_masks, masks = StoredMasks(queried), StoredMasks(automatic)
        found = classify_and_compose(
            self.clip.encode(record).dense,
            self.text,
            _class_indices(detections),
            query_masks,
            _class_indices(queried),
            masks,
            self.config.label,
            (record.height, record.width),
            (query_masks.areas, masks.areas),
        )
        save_label(directory / "labels" / f"{record.image_id}.png", found.label)
        rows = [
            row | {"similarity": float(value)}
            for row, value in zip(queried, found.query_similarity, strict=True)
        ]
        for row, index, value in zip(automatic, found.classes, found.similarity, strict=True):
            row["mask_id"] += len(queried)
            if detections:
                row["class_index"], row["class_name"] = int(index), self.class_name(index)
                row["similarity"] = float(value)
            rows.append(row)
        return rows

    def finish(self) -> None:
        if "clip" in self.__dict__:
            say_made_again("label", self.config.clip.model, self.clip.made)


_STAGES: Mapping[str, type[_Stage]] = {
    "detect": _Detect,
    "query": _Query,
    "masks": _Masks,
    "label": _Label,
}


def shards(name: str, config: Config, paths: Paths, progress: Progress) -> ShardedWork[ImageRecord]:
    """The shards of a stage, for processes that share them out; computes nothing.

    Raises:
        StoreError: an earlier stage has not been run with this configuration.
        DataError, VocabularyError, WeightsError: as the stage.
    """
    plan = Plan(config, paths, progress)
    return _sharded(_STAGES[name](config, paths, plan), name)


def _sharded(work: _Stage, name: str) -> ShardedWork[ImageRecord]:
    plan = work.plan
    store = ShardStore(work.paths.shards, name, plan.key(name))
    return ShardedWork(store, plan.manifest.records, work.config.run.shard_size, work.process)


def _run(name: str, config: Config, paths: Paths, progress: Progress) -> StageReport:
    plan = Plan(config, paths, progress)
    work = _STAGES[name](config, paths, plan)
    sharded = _sharded(work, name)
    key, destination = sharded.store.key, plan.destination(name)
    if is_published(destination, key):
        return StageReport(name, key, computed=0, taken_over=sharded.count)
    report = sharded.run(progress)
    work.finish()
    sharded.store.publish(destination, count=sharded.count, manifest=plan.header())
    return StageReport(name, key, report.computed, report.taken_over, report.records)


def _mask_rows(
    record: ImageRecord,
    source: str,
    found: npt.NDArray[np.bool_],
    iou: npt.NDArray[np.float32],
    stability: npt.NDArray[np.float32] | None,
) -> list[Row]:
    return [
        {
            "image_id": record.image_id,
            "mask_id": index,
            "rle": code,
            "height": record.height,
            "width": record.width,
            "area": int(np.count_nonzero(found[index])),
            "predicted_iou": float(iou[index]),
            "stability": None if stability is None else float(stability[index]),
            "source": source,
        }
        for index, code in enumerate(encode_masks(found))
    ]


def _class_indices(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    return np.array([row["class_index"] for row in rows], dtype=np.int64)
