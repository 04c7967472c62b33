"""The stages detect, query, masks and label: stage 1 over all images, in shards on disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.data.drawn import is_drawn
from fmbseg.data.manifest import ImageRecord
from fmbseg.models import tiny
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.detection import detect_classes
from fmbseg.pseudo.encodings import ClipEncodings, MaskEncodings
from fmbseg.pseudo.labels import label_png
from fmbseg.pseudo.pipeline import Classification, classify_and_compose
from fmbseg.pseudo.querying import query_masks, query_points
from fmbseg.pseudo.summary import AREAS, AREAS_SCHEMA, area_rows, read_summary
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
from fmbseg.stage.stage import ShardedStage

Row = dict[str, Any]
_log = logging.getLogger(__name__)


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
            rows += [
                {
                    "image_id": record.image_id,
                    "class_index": int(index),
                    "class_name": self.work.words.names[index],
                    "votes": int(found.votes[row]),
                    "similarity": float(found.similarity[row]),
                    "points": points[row].reshape(-1).tolist(),
                }
                for row, index in enumerate(found.classes)
            ]
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
                _mask_rows(record, "query", queried, iou, None), found, strict=True
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
            rows += _mask_rows(
                record, "automatic", found.masks, found.predicted_iou, found.stability
            )
        write_table(directory / MASKS, rows, MASKS_SCHEMA)

    def finish(self) -> None:
        """See `ShardedStage`."""
        self.sam.say_made_again(self.row.name, self.work.config.sam.model)


class Label(_PseudoStage):
    """1.2 Classification and composition: one label map an image.

    Out: `labels/<image_id>.png` (indexed, 255 unlabelled), `areas.parquet` with the pixels of each
    class in each image, and `masks.parquet` with all masks, their class and `similarity`: the
    cosine between the class's text and the mean CLIP patch feature under the mask, for masks of
    both sources. A mask's id counts on from the query masks of its image to the automatic ones.
    """

    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """See `ShardedStage`."""
        detections = self.rows("detect", DETECTIONS, records)
        queried = self.rows("query", MASKS, records)
        automatic = self.rows("masks", MASKS, records)
        rows: list[Row] = []
        areas: list[Row] = []
        (directory / "labels").mkdir()
        for record in records:
            name = record.image_id
            found = self._label(record, detections[name], queried[name], automatic[name])
            # The shard appears as a whole: nothing is half written.
            path = directory / "labels" / f"{name}.png"
            path.write_bytes(label_png(found.label))
            areas += area_rows(name, found.label)
            rows += self._masks(found, detections[name], queried[name], automatic[name])
        write_table(directory / MASKS, rows, MASKS_SCHEMA)
        write_table(directory / AREAS, areas, AREAS_SCHEMA)

    def finish(self) -> None:
        """See `ShardedStage`."""
        self.clip.say_made_again(self.row.name, self.work.config.clip.model)

    def summary(self) -> list[str]:
        """See `Stage.summary`; what should give pause is warned of."""
        words, config = self.work.words, self.work.config
        found = read_summary(self.place, len(words))
        if tiny.is_tiny(config.clip.model) and not is_drawn(self.work.dataset.root):
            _log.warning("%s", tiny.DRAWINGS_ONLY)
        if doubt := found.doubt(words):
            _log.warning("%s", doubt)
        return found.lines(words)

    def _label(
        self,
        record: ImageRecord,
        detections: list[Row],
        queried: list[Row],
        automatic: list[Row],
    ) -> Classification:
        return classify_and_compose(
            self.clip.encode(record).dense,
            self.text,
            _class_indices(detections),
            StoredMasks(queried),
            _class_indices(queried),
            StoredMasks(automatic),
            self.work.config.label,
            (record.height, record.width),
        )

    def _masks(
        self,
        found: Classification,
        detections: list[Row],
        queried: list[Row],
        automatic: list[Row],
    ) -> list[Row]:
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
