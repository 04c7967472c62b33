"""The stages detect, query, masks and label: stage 1 over all images, in shards on disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmbseg.data.corrections import read_corrections
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.manifest import ImageRecord
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.presets.drawings import drawings_only
from fmbseg.pseudo.edits import require_no_lost_edits
from fmbseg.pseudo.labels import label_folder, label_png
from fmbseg.pseudo.merging import Merging, merge
from fmbseg.pseudo.packs import copy_labels, repack, unpack, write_pack
from fmbseg.pseudo.summary import AREAS, AREAS_SCHEMA, area_rows, read_summary
from fmbseg.pseudo.tables import (
    DETECTIONS,
    DETECTIONS_SCHEMA,
    MASKS,
    MASKS_SCHEMA,
    StoredMasks,
    detection_rows,
    known,
    mask_rows,
    rows_by_image,
    write_table,
)
from fmbseg.stage.depends import content_key
from fmbseg.stage.row import CORRECTIONS
from fmbseg.stage.stage import ShardedStage
from fmbseg.store.shards import ShardStore, StageReport

if TYPE_CHECKING:  # results that are there are found without torch
    from fmbseg.models.clip import ClipEncoding
    from fmbseg.models.text import TextEmbeddings
    from fmbseg.pseudo.encodings import ClipEncodings, MaskEncodings
    from fmbseg.pseudo.pipeline import Classification

Row = dict[str, Any]
# What a mask of 1.1 has from its detection.
_NAMED = ("vocabulary", "class_index", "class_name", "similarity")
_log = logging.getLogger(__name__)


class _PseudoStage(ShardedStage):
    """A stage of stage 1; its models load when the first image has to be encoded."""

    @cached_property
    def clip(self) -> ClipEncodings:
        from fmbseg.pseudo.encodings import ClipEncodings

        return ClipEncodings(self.work.config, self.work.paths.encodings, self.device)

    @cached_property
    def sam(self) -> MaskEncodings:
        from fmbseg.pseudo.encodings import MaskEncodings

        return MaskEncodings(self.work.config, self.work.paths.encodings, self.device)

    @cached_property
    def texts(self) -> dict[str, TextEmbeddings]:
        """Of each vocabulary, kinds included; the template set it was made for comes first."""
        from fmbseg.pseudo.detection import looked_for

        config, embed = self.work.config, self.clip.model.text_embeddings
        return {
            words.name: looked_for(
                embed(words.widened, words.templates or config.clip.templates), config.detection
            )
            for words in self.work.vocabularies
        }

    def rows(self, stage: str, table: str, records: Sequence[ImageRecord]) -> dict[str, list[Row]]:
        """What an earlier stage says of some images."""
        place = self.work.out(stage).place / table
        return rows_by_image(place, [record.image_id for record in records])


class Detect(_PseudoStage):
    """1.1 Detection: classes of every image and their query points, in each vocabulary.

    Out: `detections.parquet`, a row per image, vocabulary and detected class.
    """

    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """See `ShardedStage`."""
        rows: list[Row] = []
        for record in records:
            encoding = self.clip.encode(record)
            for words in self.work.vocabularies:
                rows += self._detect(record, encoding, words)
        write_table(directory / DETECTIONS, rows, DETECTIONS_SCHEMA)

    def _detect(self, record: ImageRecord, encoding: ClipEncoding, words: Vocabulary) -> list[Row]:
        from fmbseg.pseudo.detection import detect_classes
        from fmbseg.pseudo.querying import query_points

        config, text = self.work.config, self.texts[words.name]
        found = detect_classes(encoding.windows, encoding.dense, text, config.detection)
        size = (record.width, record.height)
        points = query_points(encoding.dense, text, found.classes, config.query.points, size)
        return detection_rows(record.image_id, words, found, points)


class Query(_PseudoStage):
    """1.1 Querying: SAM's most confident mask for the points of every detected class.

    Out: `masks.parquet`, a row per image, vocabulary and detected class; `similarity` is the
    detection's. Vocabularies share words: classes with the same points share a prompt.
    """

    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """See `ShardedStage`."""
        from fmbseg.pseudo.querying import query_masks

        detections = self.rows("detect", DETECTIONS, records)
        rows: list[Row] = []
        for record in records:
            found = detections[record.image_id]
            if not found:
                continue
            prompts = {tuple(row["points"]): None for row in found}
            queried, iou = query_masks(
                self.sam.model,
                self.sam.encode(record),
                np.array(list(prompts), dtype=np.float32).reshape(len(prompts), -1, 2),
                self.work.config.sam.batch_size,
            )
            rows_of = mask_rows(record.image_id, "query", queried, iou)
            masks = dict(zip(prompts, rows_of, strict=True))
            for number, detection in enumerate(found):
                named = {name: detection[name] for name in _NAMED}
                rows.append(masks[tuple(detection["points"])] | named | {"mask_id": number})
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
    """1.2 Classification and composition: one label map an image and vocabulary.

    Out: the label maps (see `label_folder`), with `run.pack_labels` in packs; `areas.parquet` with
    the pixels of each class in each image, and `masks.parquet` with all masks, both in each
    vocabulary; a mask has its class, `similarity`: the cosine between the class's text and the mean
    CLIP patch feature under the mask, for masks of both sources, and `margin`. A mask's id counts
    on from the query masks of its image to the automatic ones; an automatic mask has one id in all
    vocabularies.

    What people have corrected is merged over that when it is published, see `merge`. The shards
    are the machine's labels: they stay when a correction comes or goes. In them label maps are
    always packed: to bring a file to disk takes milliseconds, and there are pictures times
    vocabularies of them.
    """

    @cached_property
    def store(self) -> ShardStore:
        """The machine's labels, under a key that knows neither corrections nor what is packed."""
        work = self.work
        run = work.config.run.model_copy(update={"pack_labels": False})
        config = work.config.model_copy(update={"run": run})
        inputs = {name: digest for name, digest in self.inputs.items() if name != CORRECTIONS}
        key = content_key(self.row.name, self.row.depends, config, inputs)
        return ShardStore(work.paths.shards, self.row.name, key)

    def run(self) -> StageReport:
        """See `ShardedStage.run`.

        Raises:
            DataError: a published label map was edited and would be lost, or a correction does not
                fit.
        """
        return replace(super().run(), key=self.key)

    def publish(self, count: int) -> None:
        """See `ShardedStage.publish`."""
        merging = self._merging
        says = (lambda path, name: False) if merging is None else merging.says
        require_no_lost_edits(self.place, says)
        header = self.work.header()
        self.store.publish(
            self.place, count=count, manifest=header, key=self.key, amend=self._amend
        )

    def _amend(self, out: Path) -> None:
        """Bring merged shards into the form in which they are published."""
        packed, merging = self.work.config.run.pack_labels, self._merging
        vocabularies = self.work.vocabularies
        folders = [out / label_folder(vocabularies, words) for words in vocabularies]
        if not packed:
            for folder in folders:
                unpack(folder)
        if merging is not None:
            if packed:  # what is corrected lies beside the packs until they are made anew
                labels = out / merging.labels
                copy_labels(labels, merging.corrections.images, labels)
            merge(out, merging)
        if packed:
            for folder in folders:
                repack(folder)

    @cached_property
    def _merging(self) -> Merging | None:
        found = self.work.corrections
        if found is None:
            return None
        words = next(each for each in self.work.vocabularies if each.names == found.classes)
        labels = label_folder(self.work.vocabularies, words)
        return Merging(self.work.paths.corrections, found, words, labels)

    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """See `ShardedStage`."""
        from fmbseg.pseudo.classification import regions
        from fmbseg.pseudo.pipeline import classify_and_compose

        detections = self.rows("detect", DETECTIONS, records)
        queried = self.rows("query", MASKS, records)
        automatic = self.rows("masks", MASKS, records)
        rows: list[Row] = []
        areas: list[Row] = []
        vocabularies = self.work.vocabularies
        labels: dict[str, dict[str, bytes]] = {words.name: {} for words in vocabularies}
        for record in records:
            name = record.image_id
            dense = self.clip.encode(record).dense
            masks = regions(dense, StoredMasks(automatic[name]))
            for words in vocabularies:
                own = [row for row in queried[name] if row["vocabulary"] == words.name]
                detected = [row for row in detections[name] if row["vocabulary"] == words.name]
                found = classify_and_compose(
                    regions(dense, StoredMasks(own)),
                    _class_indices(own),
                    masks,
                    _class_indices(detected),
                    self.texts[words.name],
                    self.work.config.label,
                    (record.height, record.width),
                )
                labels[words.name][name] = label_png(found.label)
                areas += area_rows(name, words, found.label)
                rows += _query_rows(own, found)
                rows += _automatic_rows(automatic[name], found, words, first=len(queried[name]))
        for words in vocabularies:
            write_pack(directory / label_folder(vocabularies, words), labels[words.name])
        write_table(directory / MASKS, rows, MASKS_SCHEMA)
        write_table(directory / AREAS, areas, AREAS_SCHEMA)

    def finish(self) -> None:
        """See `ShardedStage`."""
        self.clip.say_made_again(self.row.name, self.work.config.clip.model)

    def summary(self) -> list[str]:
        """See `Stage.summary`; what should give pause is warned of."""
        if doubt := drawings_only([self.work.config.clip.model], [self.work.dataset.root]):
            _log.warning("%s", doubt)
        lines = []
        for words in self.work.vocabularies:
            found = read_summary(self.place, words)
            if doubt := found.doubt(words):
                _log.warning("%s", doubt)
            lines += found.lines(words)
        if (merged := read_corrections(self.place)) is not None:
            lines.append(
                f"{len(merged.images)} pictures are people's corrections, which changed "
                f"{merged.changed} pixels"
            )
        return lines


def _query_rows(rows: list[Row], found: Classification) -> list[Row]:
    values = zip(rows, found.query_similarity, found.query_margin, strict=True)
    return [row | {"similarity": float(value), "margin": known(gap)} for row, value, gap in values]


def _automatic_rows(
    rows: list[Row], found: Classification, words: Vocabulary, first: int
) -> list[Row]:
    """The automatic masks with their classes; ids from `first` on."""
    labelled = []
    for row, index, value, margin in zip(
        rows, found.classes, found.similarity, found.margin, strict=True
    ):
        named: Row = {"vocabulary": words.name, "mask_id": first + row["mask_id"]}
        if index != UNLABELLED:
            named |= {"class_index": int(index), "class_name": words.names[index]}
            named |= {"similarity": float(value), "margin": known(margin)}
        labelled.append(row | named)
    return labelled


def _class_indices(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    return np.array([row["class_index"] for row in rows], dtype=np.int64)
