"""The stages detect, query, masks and label: stage 1 over all images, in shards on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.data.manifest import ImageRecord
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.detection import detect_classes
from fmbseg.pseudo.encodings import ClipEncodings, MaskEncodings
from fmbseg.pseudo.labels import label_png
from fmbseg.pseudo.pipeline import classify_and_compose
from fmbseg.pseudo.querying import query_masks, query_points
from fmbseg.pseudo.tables import (
    DETECTIONS,
    DETECTIONS_SCHEMA,
    MASKS,
    MASKS_SCHEMA,
    StoredMasks,
    detection_rows,
    mask_rows,
    rows_by_image,
    write_table,
)
from fmbseg.stage.stage import ShardedStage

Row = dict[str, Any]


class _PseudoStage(ShardedStage):
    """A stage of stage 1; its models load when the first image has to be encoded."""

    @cached_property
    def clip(self) -> ClipEncodings:
        return ClipEncodings(self.work.config, self.work.paths.encodings, self.device)

    @cached_property
    def sam(self) -> MaskEncodings:
        return MaskEncodings(self.work.config, self.work.paths.encodings, self.device)

    @cached_property
    def text(self) -> TextEmbeddings:
        return self.clip.model.text_embeddings(self.work.words, self.work.templates)

    def rows(self, stage: str, table: str, records: Sequence[ImageRecord]) -> dict[str, list[Row]]:
        """What an earlier stage says of some images."""
        place = self.work.out(stage).place / table
        return rows_by_image(place, [record.image_id for record in records])


class Detect(_PseudoStage):
    """1.1 Detection: classes of every image and their query points.

    Out: `detections.parquet`, a row per image and detected class.
    """

    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """See `ShardedStage`."""
        config = self.work.config
        rows: list[Row] = []
        for record in records:
            encoding = self.clip.encode(record)
            found = detect_classes(encoding.windows, encoding.dense, self.text, config.detection)
            size = (record.width, record.height)
            points = query_points(
                encoding.dense, self.text, found.classes, config.query.points, size
            )
            rows += detection_rows(record.image_id, self.work.words.names, found, points)
        write_table(directory / DETECTIONS, rows, DETECTIONS_SCHEMA)


class Query(_PseudoStage):
    """1.1 Querying: SAM's most confident mask for the points of every detected class.

    Out: `masks.parquet`, a row per image and detected class; `similarity` is the detection's.
    """

    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """See `ShardedStage`."""
        detections = self.rows("detect", DETECTIONS, records)
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
                self.work.config.sam.batch_size,
            )
            named = ("class_index", "class_name", "similarity")
            for row, detection in zip(
                mask_rows(record.image_id, "query", queried, iou), found, strict=True
            ):
                rows.append(row | {name: detection[name] for name in named})
        write_table(directory / MASKS, rows, MASKS_SCHEMA)


class Masks(_PseudoStage):
    """1.2: SAM's automatic masks of every image, filtered, not yet classified.

    Out: `masks.parquet`, a row per mask.
    """

    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """See `ShardedStage`."""
        config = self.work.config
        rows: list[Row] = []
        for record in records:
            found = self.sam.model.automatic_masks(
                self.sam.encode(record), config.masks, config.sam.batch_size
            )
            rows += mask_rows(
                record.image_id, "automatic", found.masks, found.predicted_iou, found.stability
            )
        write_table(directory / MASKS, rows, MASKS_SCHEMA)

    def finish(self) -> None:
        """See `ShardedStage`."""
        self.sam.say_made_again(self.row.name, self.work.config.sam.model)


class Label(_PseudoStage):
    """1.2 Classification and composition: one label map an image.

    Out: `labels/<image_id>.png` (indexed, 255 unlabelled) and `masks.parquet` with all masks,
    their class and `similarity`: the cosine between the class's text and the mean CLIP patch
    feature under the mask, for masks of both sources. A mask's id counts on from the query masks
    of its image to the automatic ones.
    """

    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """See `ShardedStage`."""
        detections = self.rows("detect", DETECTIONS, records)
        queried = self.rows("query", MASKS, records)
        automatic = self.rows("masks", MASKS, records)
        rows: list[Row] = []
        (directory / "labels").mkdir()
        for record in records:
            name = record.image_id
            rows += self._label(record, directory, detections[name], queried[name], automatic[name])
        write_table(directory / MASKS, rows, MASKS_SCHEMA)

    def finish(self) -> None:
        """See `ShardedStage`."""
        self.clip.say_made_again(self.row.name, self.work.config.clip.model)

    def _label(
        self,
        record: ImageRecord,
        directory: Path,
        detections: list[Row],
        queried: list[Row],
        automatic: list[Row],
    ) -> list[Row]:
        found = classify_and_compose(
            self.clip.encode(record).dense,
            self.text,
            _class_indices(detections),
            StoredMasks(queried),
            _class_indices(queried),
            StoredMasks(automatic),
            self.work.config.label,
            (record.height, record.width),
        )
        path = directory / "labels" / f"{record.image_id}.png"
        path.write_bytes(label_png(found.label))  # the shard appears as a whole
        rows = [
            row | {"similarity": float(value)}
            for row, value in zip(queried, found.query_similarity, strict=True)
        ]
        for row, index, value in zip(automatic, found.classes, found.similarity, strict=True):
            row["mask_id"] += len(queried)
            if detections:
                row["class_index"] = int(index)
                row["class_name"] = self.work.words.names[index]
                row["similarity"] = float(value)
            rows.append(row)
        return rows


def _class_indices(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    return np.array([row["class_index"] for row in rows], dtype=np.int64)
