"""A data set examined file by file: what is there, what is missing, and what is broken.

Everything else in the package stops at the first broken file. Here all of them are collected.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fmbseg.data.datasets import Sample, SegmentationDataset, dataset_layout, own_vocabulary
from fmbseg.data.folder import said
from fmbseg.data.images import check_image
from fmbseg.data.labels import UNLABELLED, odd_values
from fmbseg.data.layouts import DatasetLayout
from fmbseg.data.listing import Listing, find_images, orphans
from fmbseg.errors import DataError, VocabularyError
from fmbseg.machine.progress import Progress

_READERS = 4
_EXAMPLES = 6
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """A file that is missing or broken, and what is wrong with it in one line."""

    path: Path
    reason: str


@dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
        split: its name.
        full: images of the complete data set's split; None: the data set has no fixed size.
        images: images that are there.
        annotated: how many of them have an annotation.
        pixels: [256] pixels a class index over all readable annotations; 255 = not scored.
        occurrences: [256] annotations in which a class index occurs.
        problems: in order of the images.
        examples: a few undamaged samples, spread over the split.
        notes: what was left out and why, and what is odd about the labels; a line each.
        absent: why the split cannot be listed; None: it can.
    """

    split: str
    full: int | None
    images: int = 0
    annotated: int = 0
    pixels: Counts = field(default_factory=lambda: np.zeros(256, np.int64))
    occurrences: Counts = field(default_factory=lambda: np.zeros(256, np.int64))
    problems: tuple[Problem, ...] = ()
    examples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()
    absent: str | None = None


def examine(
    name: str, root: Path, progress: Progress, splits: Sequence[str] = ()
) -> list[SplitReport]:
    """Read every image and annotation of a data set.

    Args:
        name: one of `fmbseg.data.layouts.LAYOUTS`.
        root: the data set's folder.
        progress: for the bar.
        splits: none: all that the data set has.

    Raises:
        DataError: unknown name, or no split is there at all; says what to download then.
    """
    layout = dataset_layout(name)
    if unknown := [split for split in splits if layout.splits == ("all",) and split != "all"]:
        raise DataError(f"{name} has no split {unknown[0]!r}: it is not divided, leave it out")
    classes = _num_classes(name, root)
    reports = [
        _examine_split(name, layout, root, split, progress, classes)
        for split in splits or layout.splits
    ]
    if all(report.images == 0 and not report.problems for report in reports):
        reason = reports[0].absent or f"{name}: {root} holds no image"
        raise DataError(f"{reason}; to get it: {layout.source}; then give its root, {layout.root}")
    return reports


def _num_classes(name: str, root: Path) -> int:
    """Classes of the label maps; without a sound class list as many as there can be."""
    try:
        return len(own_vocabulary(name, root))
    except (DataError, VocabularyError):
        return UNLABELLED


def _examine_split(
    name: str, layout: DatasetLayout, root: Path, split: str, progress: Progress, classes: int
) -> SplitReport:
    full = layout.full.get(split)
    try:
        listing = find_images(name, layout, root, split)
    except DataError as error:
        return SplitReport(split, full, absent=str(error))
    dataset = SegmentationDataset(name, root, split, listing.files, num_classes=classes)
    problems = _listing_problems(layout, root, split, listing)
    pixels, occurrences = np.zeros(256, np.int64), np.zeros(256, np.int64)
    sound: list[int] = []
    with (
        progress.task(f"{name} {split}", len(dataset)) as task,
        ThreadPoolExecutor(_READERS) as pool,
    ):
        for index, (found, counts) in enumerate(pool.map(_examine_sample, dataset)):
            problems += found
            if counts is not None:
                pixels += counts
                occurrences += counts > 0
            if not found:
                sound.append(index)
            task.advance()
    annotated = sum(sample.annotation_path is not None for sample in dataset)
    chosen = sorted({sound[k * len(sound) // _EXAMPLES] for k in range(_EXAMPLES)} if sound else ())
    notes = [] if listing.pictures is None else [*said(listing.pictures)]
    if layout.vocabulary is None and (odd := odd_values(np.flatnonzero(pixels[:-1]), classes)):
        notes.append(f"look at the labels: {odd}")
    return SplitReport(
        split,
        full,
        len(dataset),
        annotated,
        pixels,
        occurrences,
        tuple(problems),
        tuple(dataset[index] for index in chosen),
        tuple(notes),
    )


def _listing_problems(
    layout: DatasetLayout, root: Path, split: str, listing: Listing
) -> list[Problem]:
    problems = [
        Problem(path, f"{path} does not exist, but {listing.source} lists it")
        for path in listing.missing
    ]
    problems += [
        Problem(file.path, f"{file.path} has the same id as {other.path}")
        for file, other in listing.same_ids()
    ]
    problems += [Problem(each.path, str(each)) for each in listing.unusable]
    return problems + [
        Problem(path, f"{path} is an annotation without an image")
        for path in orphans(layout, root, split, listing.files)
    ]


def _examine_sample(sample: Sample) -> tuple[list[Problem], Counts | None]:
    """Problems of one image and its annotation, and its [256] label histogram."""
    problems, counts = [], None
    try:
        check_image(sample.image_path)
    except DataError as error:
        problems.append(Problem(sample.image_path, str(error)))
    try:
        if (label := sample.label) is not None:
            counts = np.bincount(label.ravel(), minlength=256)
    except DataError as error:
        path = sample.annotation_path or sample.expected_annotation or sample.image_path
        problems.append(Problem(path, str(error)))
    if len(problems) == 2 and problems[1].reason == problems[0].reason:
        del problems[1]  # the image's size could not be read for its annotation either
    return problems, counts
