"""What is known of a set of pictures, wherever it lies: labels, predictions, or pictures alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from fmbseg.config import Config
from fmbseg.data.datasets import own_vocabulary
from fmbseg.data.formats import PREDICTED
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary import Vocabulary, load_vocabulary
from fmbseg.errors import DataError
from fmbseg.labelling.record import LABELLED as RECORD
from fmbseg.labelling.record import read_labelled
from fmbseg.machine.progress import Progress
from fmbseg.monitor.observed import (
    CONFIDENCE,
    DETECTED,
    DETECTION,
    MASK,
    Observed,
    Values,
    labelled_shares,
    table,
)
from fmbseg.pseudo.labels import load_label
from fmbseg.pseudo.summary import AREAS
from fmbseg.pseudo.tables import DETECTIONS, MASKS

Rows = Iterator[tuple[str, int, float]]


def observe_both(
    reference: Path,
    current: Path,
    config: Config,
    progress: Progress,
    vocabulary: Vocabulary | None = None,
) -> tuple[Observed, Observed]:
    """What is known of two sets; arguments and errors as those of `observe`."""
    for place in (reference, current):  # before minutes go into the other
        if not place.is_dir():
            raise DataError(f"{place} is no folder: name one of labels, predictions or pictures")
    return (
        observe(reference, config, progress, vocabulary),
        observe(current, config, progress, vocabulary),
    )


def observe(
    place: Path, config: Config, progress: Progress, vocabulary: Vocabulary | None = None
) -> Observed:
    """What is known of a set of pictures.

    Args:
        place: an out of the stage label, a folder of `fmbseg label` or of `fmbseg predict`, or a
            folder of pictures, whose classes are then detected.
        config: its section data names the classes of a stage's out; clip and detection say how
            pictures are looked at.
        progress: of the pictures.
        vocabulary: classes that pictures are asked for, or of several those that count.

    Raises:
        DataError: it is none of these, or is damaged.
        VocabularyError: the vocabulary cannot be read.
    """
    if (place / RECORD).is_file():
        return _labelled_folder(place)
    if (place / AREAS).is_file():
        return _stage_out(place, vocabulary or _words(place, config))
    if records := sorted(place.glob(f"*{PREDICTED}")):
        return _predictions(place, records)
    if vocabulary is None:
        raise DataError(
            f"{place} holds pictures alone: say what to look for with --classes or --vocabulary"
        )
    # It brings torch and CLIP.
    from fmbseg.monitor.pictures import detected

    return detected(place, vocabulary, config, progress)


def _words(place: Path, config: Config) -> Vocabulary:
    """The first of the vocabularies that stage 1 has labelled in."""
    own = config.data.vocabulary
    if own is None:
        return own_vocabulary(config.data.name, Path(config.data.root))
    return load_vocabulary(own if isinstance(own, str) else own[0])


def _stage_out(place: Path, words: Vocabulary) -> Observed:
    """An out of the stage label, and of the stage detect beside it."""
    known = pq.read_table(place / AREAS, filters=[("vocabulary", "==", words.name)])
    if not known.num_rows:
        raise DataError(f"{place} has no labels in {words.name}: name its vocabulary")
    rows = list(_rows(known, "pixels"))
    pictures = tuple(dict.fromkeys(name for name, _, _ in rows))
    pixels = table(pictures, UNLABELLED + 1, rows, 0)
    beside = place.parent / "detect" / DETECTIONS
    return _labels(place, words.names, pictures, pixels, place / MASKS, beside, words.name)


def _labelled_folder(place: Path) -> Observed:
    record = read_labelled(place)
    pictures = tuple(each.image_id for each in record.images)
    pixels = np.zeros((len(pictures), UNLABELLED + 1))
    for row, name in enumerate(pictures):
        label = load_label(place / "labels" / f"{name}.png")
        pixels[row] = np.bincount(label.ravel(), minlength=UNLABELLED + 1)
    tables = place / MASKS, place / DETECTIONS
    return _labels(place, record.classes, pictures, pixels, *tables)


def _labels(
    place: Path,
    names: Sequence[str],
    pictures: Sequence[str],
    pixels: Values,
    masks: Path,
    detections: Path,
    words: str | None = None,
) -> Observed:
    count = len(names)
    whole = np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    shares = labelled_shares(pixels[:, :count] / whole)
    measures = {}
    if masks.is_file():
        measures[MASK] = _table(masks, pictures, count, words)
    if detections.is_file():
        measures[DETECTION] = _table(detections, pictures, count, words)
        shares = {DETECTED: (~np.isnan(measures[DETECTION])).astype(float), **shares}
    unlabelled = float((pixels[:, UNLABELLED] / whole[:, 0]).mean())
    return Observed(str(place), tuple(names), len(pictures), shares, measures, unlabelled)


def _table(path: Path, pictures: Sequence[str], count: int, words: str | None) -> Values:
    """[n, K] highest similarity of a class in a table of stage 1; NaN where it has none."""
    filters = None if words is None else [("vocabulary", "==", words)]
    columns = ["image_id", "class_index", "similarity"]
    found = pq.read_table(path, columns=columns, filters=filters)
    return table(pictures, count, _rows(found), float("nan"))


def _rows(found: Any, column: str = "similarity") -> Rows:
    values = (found[name].to_pylist() for name in ("image_id", "class_index", column))
    for name, index, value in zip(*values, strict=True):
        if index is not None and value is not None:
            yield name, index, value


def _predictions(place: Path, records: Sequence[Path]) -> Observed:
    """What `fmbseg predict` has written, as its records say."""
    classes: tuple[str, ...] | None = None
    areas: list[tuple[str, int, float]] = []
    confidence: list[tuple[str, int, float]] = []
    pictures = [path.name.removesuffix(PREDICTED) for path in records]
    for name in pictures:
        record = _read(place / f"{name}.json")
        if classes is not None and classes != tuple(record["classes"]):
            raise DataError(
                f"{place / name}.json has other classes than {pictures[0]}.json: keep predictions "
                "of each vocabulary in a folder of its own"
            )
        classes = tuple(record["classes"])
        for each in record["areas"]:
            areas.append((name, each["index"], each["share"]))
            if each.get("confidence") is not None:
                confidence.append((name, each["index"], each["confidence"]))
    assert classes is not None  # there is at least one record
    shares = labelled_shares(table(pictures, len(classes), areas, 0))
    measures = {}
    if confidence:
        measures[CONFIDENCE] = table(pictures, len(classes), confidence, float("nan"))
    return Observed(str(place), classes, len(pictures), shares, measures)


def _read(path: Path) -> dict[str, Any]:
    """A record of `fmbseg predict`; raises DataError where it is missing or damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for each in record["areas"]:
            if not isinstance(each["index"], int) or not isinstance(each["share"], float | int):
                raise TypeError("areas")
        if not isinstance(record["classes"], list):
            raise TypeError("classes")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: predict the pictures again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no record of a prediction: predict again") from error
    found: dict[str, Any] = record
    return found
