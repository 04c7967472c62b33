"""Scoring label maps of any system: one PNG an image, the pixel's value = class index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path

import numpy as np

from fmbseg.data.datasets import Sample, SegmentationDataset
from fmbseg.data.label_maps import find_label_maps, read_label_map
from fmbseg.data.vocabulary.grouping import Grouping
from fmbseg.errors import DataError
from fmbseg.evaluate.benchmark import (
    PixelCounts,
    benchmark_result,
    held_out_images,
    is_seen,
    read_ahead,
    scored_as,
    truth_of,
)
from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.results import Result
from fmbseg.inference.decision import Decision, Labels
from fmbseg.machine.progress import Progress
from fmbseg.store.digest import json_digest

_BATCH = 8  # files that are read while others are being counted


def score_predictions(
    name: str,
    folder: Path,
    dataset: SegmentationDataset,
    progress: Progress,
    limit: int | None = None,
    grouping: Grouping | None = None,
) -> Result:
    """Score label PNGs under the protocol of the benchmark: the labels' own size, no resizing.

    Args:
        name: of the system, for the result's `method`.
        folder: holds `<image id>.png`, or `<file stem>.png`, of every image of the split, or
            `<file stem>.label.png` as `fmbseg predict` writes it: one channel (or a palette), class
            indices in the order of the benchmark's vocabulary; 255 = unlabelled, which counts as a
            miss.
        dataset: with labels.
        progress: for the bar.
        limit: score the first images only.
        grouping: of the benchmark's classes, whose groups are scored too.

    Returns:
        See `benchmark_result`; its protocol holds the digest of the predictions.

    Raises:
        DataError: the name is one of this package's methods; a prediction is missing, broken, of
            another size than its image, or holds a value that is no class.
    """
    name = checked_name(name)
    dataset.require_labels()
    samples = dataset[:limit]
    found = find_label_maps(folder, [(each.image_id, each.image_path) for each in samples])
    read = _reader(found, len(dataset.vocabulary))
    vocabulary = dataset.vocabulary
    held_out = held_out_images(dataset.root)
    counts = PixelCounts(len(vocabulary))
    digests = []
    with progress.task(f"{name} on {dataset.name}", len(samples)) as task:
        for image_id, prediction, truth in chain.from_iterable(read_ahead(samples, _BATCH, read)):
            counts.add(Decision(prediction), truth, seen=is_seen(image_id, held_out))
            values = hashlib.sha256(prediction.astype(np.uint8).tobytes()).hexdigest()
            digests.append([image_id, values])
            task.advance(1)
    return benchmark_result(
        dataset.name,
        name,
        counts,
        vocabulary,
        protocol={
            **scored_as(dataset, limit, vocabulary),
            "name": "predictions",
            "predictions_sha256": json_digest(digests),
        },
        checkpoint_sha256=None,
        scenes=held_out is not None,
        grouping=grouping,
    )


def checked_name(name: str) -> str:
    """The name of another system; raises DataError when it cannot be a row of its own."""
    if name in METHODS:
        raise DataError(f"{name!r} is a method of this package: give the other system's --name")
    if not name.strip() or "/" in name or name.startswith("."):
        raise DataError(f"{name!r} is no name for a row of results: give --name NAME")
    return name.strip()


def _reader(
    paths: Mapping[str, Path], classes: int
) -> Callable[[Sample], tuple[str, Labels, Labels]]:
    """Reads a sample's id, prediction and truth."""

    def read(sample: Sample) -> tuple[str, Labels, Labels]:
        truth = truth_of(sample)
        height, width = truth.shape
        values = read_label_map(paths[sample.image_id], (height, width), classes)
        return sample.image_id, values.astype(np.int64), truth

    return read
