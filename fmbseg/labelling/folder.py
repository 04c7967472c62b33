"""Stage 1 on a folder of pictures: resumed after a kill, published when all is done.

Each picture's result is kept in the folder `.fmbseg` of the output as soon as it is there, by the
content of the picture: a later call computes what is new or has changed.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmbseg.config import Config
from fmbseg.data.corrections import RECORD, Correction
from fmbseg.data.vocabulary import Vocabulary, vocabulary_yaml
from fmbseg.errors import DataError
from fmbseg.labelling.labeller import Labeller
from fmbseg.labelling.pictures import Picture, Pictures, find_pictures
from fmbseg.labelling.published import WORK, damaged, forget_others, publish, require_own
from fmbseg.labelling.record import LABELLED, VOCABULARY, Labelled
from fmbseg.labelling.summary import (
    SUMMARY,
    ClassSummary,
    Summary,
    read_summary,
    sheet,
    write_summary,
)
from fmbseg.machine.device import choose_device
from fmbseg.machine.progress import Progress
from fmbseg.pipeline.table import ROWS
from fmbseg.pseudo.labels import label_png, load_label
from fmbseg.pseudo.merging import MACHINE, Merging, open_merging, person_rows
from fmbseg.pseudo.pipeline import ImageLabels
from fmbseg.pseudo.tables import (
    DETECTIONS,
    DETECTIONS_SCHEMA,
    MASKS,
    MASKS_SCHEMA,
    TableWriter,
    detection_rows,
    is_labelled,
    known,
    mask_rows,
)
from fmbseg.stage.depends import Depends, content_key
from fmbseg.store import atomic
from fmbseg.store.digest import json_digest
from fmbseg.store.shards import MANIFEST, ShardStore, published_key
from fmbseg.view.overlay import png

_NAME = "labelling"
_STAGES = ("detect", "query", "masks", "label")
_NAMED = 5  # broken pictures that an error names
_LABEL, _TABLES = "label.png", "rows.json"


@dataclass(frozen=True)
class FolderReport:
    """What a call did.

    Attributes:
        labelled: the record of the folder.
        computed: pictures that were labelled now; the others had been.
        summary: a row a class.
    """

    labelled: Labelled
    computed: int
    summary: tuple[ClassSummary, ...]


def label_folder(
    folder: Path,
    words: Vocabulary,
    config: Config,
    out: Path,
    progress: Progress,
    *,
    strict: bool = False,
    corrections: Path | None = None,
) -> FolderReport:
    """Label all pictures of a folder.

    Args:
        folder: of the pictures.
        words: the classes.
        config: sections run, clip, detection, query, sam, masks and label are read.
        out: gets `labels/<image_id>.png`, the tables of the stages label and detect,
            `labelled.json`, `vocabulary.yaml`, `summary.csv`, `skipped.csv` and `sheet.png`.
        progress: advanced by pictures.
        strict: a picture that cannot be read is an error, before anything is computed.
        corrections: folder of what people have corrected, merged over the labels as the stage
            label does; None: there is none.

    Raises:
        DataError: no picture can be read, or one cannot and `strict`; `out` holds something else,
            or its labels were changed by hand; the corrections are of other classes or sizes.
        WeightsError: the weights of a model are missing or damaged.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give one of pictures")
    merging = None if corrections is None else open_merging(corrections, words)
    require_own(out, merging)
    work = out / WORK
    pictures = find_pictures(folder, out, work / "pictures", progress)
    if strict and pictures.skipped:
        reasons = list(pictures.skipped.values())
        more = f" and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        raise DataError(f"{len(reasons)} not read: {'; '.join(reasons[:_NAMED])}{more}")
    depends = sum((ROWS[name].depends for name in _STAGES), start=Depends())
    key = content_key(_NAME, depends, config, {"words": words.digest})
    labelled = Labelled(
        str(pictures.folder),
        words.names,
        words.background,
        tuple(each.file for each in pictures.readable),
        pictures.skipped,
    )
    contents = [each.sha256 for each in pictures.readable]
    digests = [] if merging is None else [merging.digest]
    whole = json_digest([key, labelled.to_json(), contents, *digests])
    if published_key(out) == whole and not damaged(out):
        return FolderReport(labelled, 0, tuple(read_summary(out / SUMMARY)))
    store = ShardStore(work / "label", "pictures", key)
    computed = _compute(pictures.readable, words, config, store, progress)
    with atomic.temporary_directory(work, "out") as temporary:
        summary = _assemble(temporary, pictures, words, config, store, merging)
        (temporary / LABELLED).write_text(labelled.to_json(), encoding="utf-8")
        atomic.seal(temporary, MANIFEST, {"stage": _NAME, "key": whole})
        publish(temporary, out)
    forget_others(store)
    return FolderReport(labelled, computed, summary)


def _compute(
    pictures: Sequence[Picture],
    words: Vocabulary,
    config: Config,
    store: ShardStore,
    progress: Progress,
) -> int:
    """Label what has no result yet; how many that were."""
    atomic.remove_abandoned(store.directory)
    labeller: Labeller | None = None
    computed = 0
    with progress.task("label", len(pictures)) as task:
        for picture in pictures:
            if not store.has(_number(picture)):
                labeller = labeller or Labeller(words, config, choose_device(config.run))
                found = labeller.label(picture.path)
                with store.write(_number(picture)) as directory:
                    (directory / _LABEL).write_bytes(label_png(found.label))
                    text = json.dumps(_tables(found, words), allow_nan=False)
                    (directory / _TABLES).write_text(text, encoding="utf-8")
                computed += 1
            task.advance()
    return computed


def _number(picture: Picture) -> int:
    """Of the picture's result in the store: pictures of the same content share one."""
    return int(picture.sha256[:15], 16)


def _tables(found: ImageLabels, words: Vocabulary) -> dict[str, list[dict[str, Any]]]:
    """Rows of the tables, as the stages detect and label write them; without the image's id."""
    queried = mask_rows("", "query", found.queried, found.query_iou)
    automatic = mask_rows(
        "",
        "automatic",
        found.automatic.masks,
        found.automatic.predicted_iou,
        found.automatic.stability,
    )
    classes = [*found.detections.classes.tolist(), *found.classes.tolist()]
    similarity = [*found.query_similarity.tolist(), *found.similarity.tolist()]
    margins = map(known, [*found.query_margin, *found.margin])
    masks = []
    for number, (row, index, value, margin) in enumerate(
        zip(queried + automatic, classes, similarity, margins, strict=True)
    ):
        row |= {"mask_id": number, "vocabulary": words.name}
        if index != words.unlabelled:
            named = {"class_index": index, "class_name": words.names[index]}
            row |= named | {"similarity": value, "margin": margin}
        masks.append(row)
    return {
        DETECTIONS: detection_rows("", words, found.detections, found.points),
        MASKS: masks,
    }


def _assemble(
    folder: Path,
    pictures: Pictures,
    words: Vocabulary,
    config: Config,
    store: ShardStore,
    merging: Merging | None,
) -> tuple[ClassSummary, ...]:
    """Write everything that is published, but the record and the manifest."""
    labels = folder / "labels"
    labels.mkdir()
    counted = Summary(words.names)
    schemas = {DETECTIONS: DETECTIONS_SCHEMA, MASKS: MASKS_SCHEMA}
    merged: dict[str, Correction] = {}
    with ExitStack() as stack:
        tables = {
            name: stack.enter_context(TableWriter(folder / name, schema))
            for name, schema in schemas.items()
        }
        for picture in pictures.readable:
            image_id, result = picture.file.image_id, store.shard_path(_number(picture))
            target = labels / f"{image_id}.png"
            shutil.copyfile(result / _LABEL, target)
            rows = json.loads((result / _TABLES).read_text(encoding="utf-8"))
            if merging is not None and image_id in merging.corrections.images:
                machine = folder / MACHINE / target.name
                merged[image_id], before, after = merging.over(image_id, target, machine)
                rows[MASKS] += person_rows(image_id, words, before, after, len(rows[MASKS]))
            for name, table in tables.items():
                table.add([row | {"image_id": image_id} for row in rows[name]])
            counted.add(load_label(target, len(words)), _similarities(rows[MASKS], words, config))
    if merging is not None and merged:
        (folder / RECORD).write_text(merging.record(merged), encoding="utf-8")
    summary = counted.rows()
    write_summary(folder / SUMMARY, summary)
    (folder / VOCABULARY).write_text(vocabulary_yaml(words), encoding="utf-8")
    with (folder / "skipped.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "reason"), *pictures.skipped.items()])
    panels = [
        (each.file.file, each.path, labels / f"{each.file.image_id}.png")
        for each in pictures.readable
    ]
    (folder / "sheet.png").write_bytes(png(sheet(panels, words)))
    return tuple(summary)


def _similarities(
    masks: Sequence[dict[str, Any]], words: Vocabulary, config: Config
) -> Iterator[tuple[int, float, float]]:
    """Classes of the masks in the label map, with their cosines."""
    for row in masks:
        if is_labelled(row, config.label.min_similarity, words.thresholds):
            yield row["class_index"], row["similarity"], 1
