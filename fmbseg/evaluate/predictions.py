"""Scoring label maps of any other system: one PNG an image, the pixel's value = class index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from fmbseg.data.datasets import Sample, SegmentationDataset
from fmbseg.data.images import read_annotation
from fmbseg.data.labels import UNLABELLED
from fmbseg.errors import DataError
from fmbseg.evaluate.benchmark import (
    PixelCounts,
    benchmark_result,
    held_out_images,
    is_seen,
    scored_as,
)
from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.results import Result
from fmbseg.inference.decision import Decision, Labels
from fmbseg.machine.progress import Progress
from fmbseg.store.digest import json_digest

_READERS = 4


def score_predictions(
    benchmark: str,
    name: str,
    folder: Path,
    dataset: SegmentationDataset,
    progress: Progress,
    limit: int | None = None,
) -> Result:
    """Score label PNGs under the protocol of the benchmark: the labels' own size, no resizing.

    Args:
        benchmark: its name, for the result.
        name: of the system, for the result's `method`.
        folder: holds `<image id>.png`, or `<file stem>.png`, of every image of the split: one
            channel (or a palette), class indices in the order of the benchmark's vocabulary;
            255 = unlabelled, which counts as a miss.
        dataset: with labels.
        progress: for the bar.
        limit: score the first images only.

    Returns:
        See `benchmark_result`; its protocol holds the digest of the predictions.

    Raises:
        DataError: the name is one of this package's methods; a prediction is missing, broken, of
            another size than its image, or holds a value that is no class.
    """
    name = checked_name(name)
    dataset.require_labels()
    samples = dataset[:limit]
    paths = _find(folder, samples)
    vocabulary = dataset.vocabulary
    held_out = held_out_images(dataset.root)
    counts = PixelCounts(len(vocabulary))
    digests = []
    with progress.task(f"{name} on {benchmark}", len(samples)) as task:
        for sample, prediction, truth in _read(samples, paths, len(vocabulary)):
            counts.add(Decision(prediction), truth, seen=is_seen(sample.image_id, held_out))
            values = hashlib.sha256(prediction.astype(np.uint8).tobytes()).hexdigest()
            digests.append([sample.image_id, values])
            task.advance(1)
    return benchmark_result(
        benchmark,
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
    )


def checked_name(name: str) -> str:
    """The name of another system; raises DataError when it cannot be a row of its own."""
    if name in METHODS:
        raise DataError(f"{name!r} is a method of this package: give the other system's --name")
    if not name.strip() or "/" in name or name.startswith("."):
        raise DataError(f"{name!r} is no name for a row of results: give --name NAME")
    return name.strip()


def _find(folder: Path, samples: Sequence[Sample]) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give one with a label PNG for each image")
    found, missing = [], []
    for sample in samples:
        names = dict.fromkeys((sample.image_id, PurePosixPath(sample.image_id).name))
        places = [folder / f"{name}.png" for name in (*names, sample.image_path.stem)]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            missing.append(places[0])
        else:
            found.append(path)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(samples)} images have no prediction in {folder}, the first "
            f"is {missing[0]}: write one PNG for each image of the split, or use --limit"
        )
    # Names without folders may mean two images.
    if len(set(found)) < len(found):
        twice = next(path for path in found if found.count(path) > 1)
        raise DataError(f"{twice} stands for two images: name predictions by the whole image id")
    return found


def _read(
    samples: Sequence[Sample], paths: Sequence[Path], classes: int
) -> Iterator[tuple[Sample, Labels, npt.NDArray[np.int64]]]:
    """Predictions and truth, in order; files are read ahead, decoding releases the lock."""

    def read(index: int) -> tuple[Sample, Labels, npt.NDArray[np.int64]]:
        sample, path = samples[index], paths[index]
        truth = sample.label
        if truth is None:
            raise DataError(f"{sample.image_path} has no annotation: score a split that has truth")
        values = read_annotation(path)
        if values.shape != truth.shape:
            raise DataError(
                f"{path} is {values.shape[1]} x {values.shape[0]} px, its image "
                f"{truth.shape[1]} x {truth.shape[0]} px: save predictions at the image's own size"
            )
        illegal = (values >= classes) & (values != UNLABELLED)
        if illegal.any():
            raise DataError(
                f"{path} holds the value {int(values[illegal][0])}: this benchmark has the classes "
                f"0 to {classes - 1}, and {UNLABELLED} for unlabelled"
            )
        return sample, values.astype(np.int64), truth

    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(samples), 2 * _READERS):
            stop = min(start + 2 * _READERS, len(samples))
            yield from pool.map(read, range(start, stop))
