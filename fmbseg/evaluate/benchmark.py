"""One method on one benchmark: images stream through, only pixel counts are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fmbseg.data.datasets import Sample, SegmentationDataset
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.evaluate.predictors import Predictor
from fmbseg.evaluate.results import Result, write_result
from fmbseg.progress import Progress

__all__ = [
    "PixelCounts",
    "benchmark_result",
    "count_pixels",
    "evaluate_benchmark",
    "held_out_images",
    "write_result",
]

SCENE_OBJECTS = "scenes.parquet"  # beside scene data sets: one row an object
_READERS = 4
_Read = tuple[str, Image.Image, npt.NDArray[np.int64]]


class PixelCounts:
    """Pixel counts of some images of a benchmark.

    Attributes:
        all: confusion matrix over all images.
        seen: over the images without a glyph that pretraining never saw (scenes only).
        images: how many `all` has counted.
        seen_images: how many `seen` has counted.
    """

    def __init__(self, num_classes: int) -> None:
        self.all = ConfusionMatrix(num_classes)
        self.seen = ConfusionMatrix(num_classes)
        self.images = 0
        self.seen_images = 0

    def merge(self, other: PixelCounts) -> None:
        """Add the counts of other images; raises DataError for another number of classes."""
        self.all.merge(other.all)
        self.seen.merge(other.seen)
        self.images += other.images
        self.seen_images += other.seen_images

    def save(self, path: Path) -> None:
        """Write the counts as a NumPy archive (`.npz`)."""
        images = np.array([self.images, self.seen_images], dtype=np.int64)
        np.savez_compressed(path, all=self.all.matrix, seen=self.seen.matrix, images=images)

    @classmethod
    def load(cls, path: Path) -> PixelCounts:
        """Read what `save` wrote."""
        with np.load(path) as archive:
            counts = cls(len(archive["all"]))
            counts.all.matrix += archive["all"]
            counts.seen.matrix += archive["seen"]
            counts.images, counts.seen_images = (int(number) for number in archive["images"])
        return counts


def evaluate_benchmark(
    benchmark: str,
    method: str,
    predictor: Predictor,
    dataset: SegmentationDataset,
    root: Path,
    progress: Progress,
    limit: int | None = None,
    batch_size: int = 8,
) -> Result:
    """Score a method over a data set at the labels' own size, in one go.

    Args:
        benchmark: its name, for the result.
        method: its name, for the result.
        predictor: the method.
        dataset: with labels; its own vocabulary is used.
        root: the data set's folder; of scenes it also tells which images show glyphs that
            pretraining never saw, and the result gets a figure without those.
        progress: for the bar.
        limit: score the first images only.
        batch_size: images handed to the predictor at once.

    Returns:
        See `benchmark_result`.

    Raises:
        DataError: the data set has no labels, or one of its files is broken.
    """
    dataset.require_labels()
    samples = dataset[:limit]
    vocabulary = dataset.vocabulary
    held_out = held_out_images(root)
    with progress.task(f"{method} on {benchmark}", len(samples)) as task:
        counts = count_pixels(
            predictor, samples, vocabulary, held_out, batch_size, advance=task.advance
        )
    return benchmark_result(
        benchmark,
        method,
        counts,
        vocabulary,
        protocol={"split": dataset.split, "limit": limit, **predictor.protocol(vocabulary)},
        checkpoint_sha256=predictor.checkpoint_sha256,
        scenes=held_out is not None,
    )


def count_pixels(
    predictor: Predictor,
    samples: Sequence[Sample],
    vocabulary: Vocabulary,
    held_out: frozenset[str] | None = None,
    batch_size: int = 8,
    advance: Callable[[int], None] | None = None,
) -> PixelCounts:
    """Predict and count; files are read ahead, at most two batches of images are in memory.

    Args:
        predictor: the method.
        samples: with truth.
        vocabulary: the benchmark's, in the order of the truth's values.
        held_out: see `held_out_images`.
        batch_size: images handed to the predictor at once.
        advance: called with the number of images just done.

    Raises:
        DataError: an image or its truth is missing or broken, or a prediction does not fit.
    """
    counts = PixelCounts(len(vocabulary))
    for batch in _read_ahead(samples, batch_size):
        predictions = predictor.predict_labels([image for _, image, _ in batch], vocabulary)
        for (image_id, _, truth), prediction in zip(batch, predictions, strict=True):
            counts.all.update(prediction, truth)
            counts.images += 1
            if held_out is not None and not _shows(image_id, held_out):
                counts.seen.update(prediction, truth)
                counts.seen_images += 1
        if advance is not None:
            advance(len(batch))
    return counts


def held_out_images(root: Path) -> frozenset[str] | None:
    """Names of the scenes that show a glyph held out of pretraining; None: no scenes in `root`.

    An object of which no pixel is visible does not count.

    Raises:
        DataError: the scenes' table is damaged.
    """
    path = root / SCENE_OBJECTS
    if not path.is_file():
        return None
    try:
        rows = pq.read_table(path, columns=["image_id", "held_out", "visible_pixels"]).to_pylist()
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(f"{path} is damaged: run `fmbseg run scenes` again") from error
    return frozenset(
        str(row["image_id"]) for row in rows if row["held_out"] and row["visible_pixels"] > 0
    )


def benchmark_result(
    benchmark: str,
    method: str,
    counts: PixelCounts,
    vocabulary: Vocabulary,
    *,
    protocol: dict[str, Any],
    checkpoint_sha256: str | None,
    scenes: bool,
) -> Result:
    """The content of a result file: percent, and null where nothing was counted.

    Args:
        benchmark: its name.
        method: its name.
        counts: of all its images.
        vocabulary: of the benchmark.
        protocol: what the numbers depend on, JSON values.
        checkpoint_sha256: of the trained head; None: nothing was trained.
        scenes: whether `counts.seen` means something.

    Returns:
        benchmark, method, miou, miou_present, pixel_accuracy, per_class_iou, images, protocol,
        checkpoint_sha256, vocabulary_sha256; of scenes also without_held_out_glyphs.
    """
    matrix = counts.all
    ious = zip(vocabulary.names, matrix.iou().tolist(), strict=True)
    result: Result = {
        "benchmark": benchmark,
        "method": method,
        "miou": _number(matrix.miou()),
        "miou_present": _number(matrix.miou_present()),
        "pixel_accuracy": _number(matrix.pixel_accuracy()),
        "per_class_iou": {name: _number(iou) for name, iou in ious},
        "images": counts.images,
        "protocol": protocol,
        "checkpoint_sha256": checkpoint_sha256,
        "vocabulary_sha256": vocabulary.digest,
    }
    if scenes:
        seen = _number(counts.seen.miou())
        result["without_held_out_glyphs"] = {"miou": seen, "images": counts.seen_images}
    return result


def _read_ahead(samples: Sequence[Sample], batch_size: int) -> Iterator[list[_Read]]:
    """Batches in order; while one is being predicted, the next is being read."""
    with ThreadPoolExecutor(_READERS) as pool:

        def submit(start: int) -> list[Future[_Read]]:
            stop = min(start + batch_size, len(samples))
            return [pool.submit(_read, samples[index]) for index in range(start, stop)]

        waiting = submit(0)
        try:
            for start in range(0, len(samples), batch_size):
                current, waiting = waiting, submit(start + batch_size)
                yield [future.result() for future in current]
        finally:
            for future in waiting:
                future.cancel()


def _read(sample: Sample) -> _Read:
    truth = sample.label
    if truth is None:
        raise DataError(f"{sample.image_path} has no annotation: score a split that has truth")
    return sample.image_id, sample.image, truth


def _shows(image_id: str, held_out: frozenset[str]) -> bool:
    # Some layouts put folders before the name that a scene goes by.
    return image_id in held_out or PurePosixPath(image_id).name in held_out


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
