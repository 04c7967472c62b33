"""One method on one benchmark: images stream through, only pixel counts are kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from statistics import harmonic_mean
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fmbseg.data.datasets import Sample, SegmentationDataset, dataset_layout
from fmbseg.data.drawn import SCENE_OBJECTS
from fmbseg.data.labels import odd_values
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.data.vocabulary.grouping import Grouping
from fmbseg.errors import DataError
from fmbseg.evaluate.boundary import BoundaryCounts
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.evaluate.results import OWN_WORDS, Result
from fmbseg.evaluate.sweep import ThresholdSweep, grid

if TYPE_CHECKING:  # results that are there are read without torch
    from fmbseg.evaluate.methods.predictor import Predictor
    from fmbseg.inference.decision import Decision

_READERS = 4
_CONFUSIONS = 20  # as many as a plot shows
Read = TypeVar("Read")
_log = logging.getLogger(__name__)


class PixelCounts:
    """Pixel counts of some images of a benchmark.

    Attributes:
        all: confusion matrix over all images.
        seen: over the images without a glyph that pretraining never saw (scenes only).
        boundary: of all images' class boundaries.
        sweep: over other background thresholds; None where no threshold decides.
        own: mIoU of each image by itself, percent, in order; NaN: none of its pixels is scored.
        images: how many `all` has counted.
        seen_images: how many `seen` has counted.
    """

    def __init__(self, num_classes: int) -> None:
        self.all = ConfusionMatrix(num_classes)
        self.seen = ConfusionMatrix(num_classes)
        self.boundary = BoundaryCounts(num_classes)
        self.sweep: ThresholdSweep | None = None
        self.own: list[float] = []
        self.images = 0
        self.seen_images = 0

    def add(self, decision: Decision, truth: npt.NDArray[np.int64], seen: bool) -> None:
        """Count one image.

        Args:
            decision: the method's.
            truth: [H, W] class indices, 255 = ignored.
            seen: whether it counts for `seen`, too.

        Raises:
            DataError: the prediction is of another size, or the truth holds no class.
        """
        prediction = decision.labels
        own = ConfusionMatrix(self.all.num_classes)
        own.update(prediction, truth)
        self.own.append(own.miou())
        self.all.merge(own)
        self.boundary.update(prediction, truth)
        self.images += 1
        if seen:
            self.seen.merge(own)
            self.seen_images += 1
        if (rule := decision.threshold) is not None:
            if self.sweep is None:
                classes = self.all.num_classes
                self.sweep = ThresholdSweep(classes, rule.background, grid(rule))
            self.sweep.update(decision.best, rule.confidence, truth)

    def merge(self, other: PixelCounts) -> None:
        """Add the counts of other images; raises DataError for another number of classes."""
        self.all.merge(other.all)
        self.seen.merge(other.seen)
        self.boundary.merge(other.boundary)
        if self.sweep is None:
            self.sweep = other.sweep
        elif other.sweep is not None:
            self.sweep.merge(other.sweep)
        self.own += other.own
        self.images += other.images
        self.seen_images += other.seen_images

    def save(self, path: Path) -> None:
        """Write the counts as a NumPy archive (`.npz`)."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "all": self.all.matrix,
            "seen": self.seen.matrix,
            "boundary": np.stack([self.boundary.intersection, self.boundary.union]),
            "own": np.array(self.own, dtype=np.float64),
            "images": np.array([self.images, self.seen_images], dtype=np.int64),
        }
        if self.sweep is not None:
            arrays["sweep"] = self.sweep.counts
            arrays["thresholds"] = np.array(self.sweep.thresholds)
            arrays["background"] = np.array(self.sweep.background)
        np.savez_compressed(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> PixelCounts:
        """Read what `save` wrote."""
        with np.load(path) as archive:
            counts = cls(len(archive["all"]))
            counts.all.matrix += archive["all"]
            counts.seen.matrix += archive["seen"]
            counts.boundary.intersection, counts.boundary.union = archive["boundary"]
            counts.own = archive["own"].tolist()
            counts.images, counts.seen_images = (int(number) for number in archive["images"])
            if "sweep" in archive:
                thresholds = tuple(archive["thresholds"].tolist())
                classes = counts.all.num_classes
                counts.sweep = ThresholdSweep(classes, int(archive["background"]), thresholds)
                counts.sweep.counts += archive["sweep"]
        return counts


def scored_as(
    dataset: SegmentationDataset, limit: int | None, vocabulary: Vocabulary
) -> dict[str, Any]:
    """What is scored, for the result's protocol: split, limit, and whose words.

    The words are named without the benchmark, as `sclip`: results of one run are told by it.
    """
    own = dataset.vocabulary
    name = vocabulary.name.removesuffix(f"/{own.name}")
    words = OWN_WORDS if vocabulary == own else name
    return {"split": dataset.split, "limit": limit, "vocabulary": words}


def count_pixels(
    predictor: Predictor,
    samples: Sequence[Sample],
    vocabulary: Vocabulary,
    held_out: frozenset[str] | None = None,
    batch_size: int = 8,
    benchmark: str | None = None,
) -> PixelCounts:
    """Predict and count; files are read ahead, at most two batches of images are in memory.

    Args:
        predictor: the method.
        samples: with truth.
        vocabulary: the benchmark's, in the order of the truth's values.
        held_out: see `held_out_images`.
        batch_size: images handed to the predictor at once.
        benchmark: its name, where the protocol has sizes of its own for it.

    Raises:
        DataError: an image or its truth is missing or broken, or a prediction does not fit.
    """
    counts = PixelCounts(len(vocabulary))
    for batch in read_ahead(samples, batch_size, _read):
        decisions = predictor.decide([image for _, image, _ in batch], vocabulary, benchmark)
        for (image_id, _, truth), decision in zip(batch, decisions, strict=True):
            counts.add(decision, truth, seen=is_seen(image_id, held_out))
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


def is_seen(image_id: str, held_out: frozenset[str] | None) -> bool:
    """Whether an image is a scene without held-out glyphs; see `held_out_images`."""
    if held_out is None:
        return False
    # Some layouts put folders before the name that a scene goes by.
    return image_id not in held_out and PurePosixPath(image_id).name not in held_out


def benchmark_result(
    benchmark: str,
    method: str,
    counts: PixelCounts,
    vocabulary: Vocabulary,
    *,
    protocol: dict[str, Any],
    checkpoint_sha256: str | None,
    scenes: bool,
    unseen: Sequence[str] | None = None,
    grouping: Grouping | None = None,
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
        unseen: names of classes whose words the head was not trained with; None: nothing was
            trained.
        grouping: of the classes, whose groups are scored too.

    Returns:
        benchmark, method, miou, miou_present, pixel_accuracy, mean_accuracy, boundary_iou,
        per_class_iou, per_class_boundary_iou, confusions (percent of all scored pixels), images,
        protocol, checkpoint_sha256, vocabulary_sha256; of scenes also without_held_out_glyphs;
        of a trained head also names (see `names_apart`); with a grouping also groups;
        where a background threshold decides also threshold_oracle, which is no result: its
        threshold is chosen on the truth.
    """
    matrix = counts.all
    if dataset_layout(benchmark).vocabulary is None:
        odd = odd_values(np.flatnonzero(matrix.target_pixels), len(vocabulary))
        if odd is not None:
            _log.warning("%s: look at the labels: %s", benchmark, odd)

    def by_class(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
        named = zip(vocabulary.names, values.tolist(), strict=True)
        return {name: _number(value) for name, value in named}

    result: Result = {
        "benchmark": benchmark,
        "method": method,
        "miou": _number(matrix.miou()),
        "miou_present": _number(matrix.miou_present()),
        "pixel_accuracy": _number(matrix.pixel_accuracy()),
        "mean_accuracy": _number(matrix.mean_accuracy()),
        "boundary_iou": _number(counts.boundary.miou()),
        "per_class_iou": by_class(matrix.iou()),
        "per_class_boundary_iou": by_class(counts.boundary.iou()),
        "confusions": _confusions(matrix, vocabulary),
        "images": counts.images,
        "protocol": protocol,
        "checkpoint_sha256": checkpoint_sha256,
        "vocabulary_sha256": vocabulary.digest,
    }
    if scenes:
        seen = _number(counts.seen.miou())
        result["without_held_out_glyphs"] = {"miou": seen, "images": counts.seen_images}
    if unseen is not None:
        result["names"] = names_apart(result["per_class_iou"], unseen)
    if grouping is not None:
        result["groups"] = _grouped(matrix, grouping)
    if counts.sweep is not None:
        result["threshold_oracle"] = _oracle(counts.sweep)
    return result


def names_apart(iou: Mapping[str, float | None], unseen: Collection[str]) -> dict[str, Any]:
    """Scores over the names a head was trained with, and over the others.

    Args:
        iou: of each class, percent; None: it does not occur.
        unseen: names that it was not trained with.

    Returns:
        `seen` and `unseen`: mean IoU, percent, None where no class occurs; `harmonic`: their
        harmonic mean, None where one is missing; `unseen_names`.
    """
    means: dict[str, float | None] = {}
    for part in ("seen", "unseen"):
        found = [
            value
            for name, value in iou.items()
            if value is not None and (name in unseen) == (part == "unseen")
        ]
        means[part] = sum(found) / len(found) if found else None
    seen, other = means["seen"], means["unseen"]
    harmonic = None if seen is None or other is None else harmonic_mean((seen, other))
    return {**means, "harmonic": harmonic, "unseen_names": list(unseen)}


def _grouped(matrix: ConfusionMatrix, grouping: Grouping) -> dict[str, Any]:
    """mIoU, pixel accuracy and IoU of groups of classes, in percent."""
    groups = matrix.grouped(grouping)
    named = zip(grouping.names, groups.iou().tolist(), strict=True)
    return {
        "miou": _number(groups.miou()),
        "pixel_accuracy": _number(groups.pixel_accuracy()),
        "per_class_iou": {name: _number(value) for name, value in named},
    }


def _confusions(matrix: ConfusionMatrix, vocabulary: Vocabulary) -> dict[str, float]:
    names = [*vocabulary.names, "unlabelled"]
    pixels = max(1, int(matrix.target_pixels.sum()))
    return {
        f"{names[target]} as {names[predicted]}": 100 * count / pixels
        for target, predicted, count in matrix.confusions(_CONFUSIONS)
    }


def _oracle(sweep: ThresholdSweep) -> dict[str, Any]:
    by_threshold = dict(zip(sweep.thresholds, map(_number, sweep.mious()), strict=True))
    counted = {threshold: miou for threshold, miou in by_threshold.items() if miou is not None}
    best = max(counted, key=counted.__getitem__, default=None)
    return {
        "note": "background threshold chosen on the benchmark's own truth: not a result",
        "best_miou": None if best is None else counted[best],
        "best_threshold": best,
        "miou": {str(threshold): miou for threshold, miou in by_threshold.items()},
    }


def read_ahead(
    samples: Sequence[Sample], batch_size: int, read: Callable[[Sample], Read]
) -> Iterator[list[Read]]:
    """What is read of samples, in batches and in order; meanwhile the next batch is being read."""
    pool = ThreadPoolExecutor(_READERS)
    try:
        current: Iterator[Read] = iter(())
        for start in range(0, len(samples) + batch_size, batch_size):
            following = pool.map(read, samples[start : start + batch_size])
            if batch := list(current):
                yield batch
            current = following
    finally:
        pool.shutdown(cancel_futures=True)


def truth_of(sample: Sample) -> npt.NDArray[np.int64]:
    """Its label map [H, W] int64; raises DataError where it has none."""
    truth = sample.label
    if truth is None:
        raise DataError(f"{sample.image_path} has no annotation: score a split that has truth")
    return truth


def _read(sample: Sample) -> tuple[str, Image.Image, npt.NDArray[np.int64]]:
    return sample.image_id, sample.image, truth_of(sample)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
