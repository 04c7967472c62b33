"""One method on one benchmark: a streamed confusion matrix and its result file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd

from fmbseg.data.datasets import SegmentationDataset
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.evaluate.predictors import Predictor
from fmbseg.progress import Progress

SCENE_OBJECTS = "scenes.parquet"  # beside scene data sets: one row an object


def evaluate_benchmark(
    benchmark: str,
    method: str,
    predictor: Predictor,
    dataset: SegmentationDataset,
    root: Path,
    progress: Progress,
    limit: int | None = None,
) -> dict[str, Any]:
    """Score a method over a data set at the labels' own size.

    Args:
        benchmark: its name, for the result.
        method: its name, for the result.
        predictor: the method.
        dataset: with labels.
        root: the data set's folder; of scenes it also tells which images show glyphs that
            pretraining never saw, and the result gets a figure without those.
        progress: for the bar.
        limit: score the first images only.

    Returns:
        The result file's content: IoU and accuracies in percent, null where nothing was counted.

    Raises:
        DataError: the data set has no labels, or one of its files is broken.
    """
    dataset.require_labels()
    samples = dataset[:limit] if limit is not None else dataset
    vocabulary = dataset.vocabulary
    unseen = _images_with_held_out_glyphs(root)
    everything, seen = ConfusionMatrix(len(vocabulary)), ConfusionMatrix(len(vocabulary))
    seen_images = 0
    with progress.task(f"{method} on {benchmark}", len(samples)) as task:
        for sample in samples:
            assert sample.label is not None  # require_labels above
            one = ConfusionMatrix(len(vocabulary))
            one.update(predictor.predict_label(sample.image, vocabulary), sample.label)
            everything.merge(one)
            if unseen is not None and sample.image_id not in unseen:
                seen.merge(one)
                seen_images += 1
            task.advance(1)
    result: dict[str, Any] = {
        "benchmark": benchmark,
        "method": method,
        "miou": _number(everything.miou()),
        "miou_present": _number(everything.miou_present()),
        "pixel_accuracy": _number(everything.pixel_accuracy()),
        "per_class_iou": {
            name: _number(iou)
            for name, iou in zip(vocabulary.names, everything.iou().tolist(), strict=True)
        },
        "images": len(samples),
        "protocol": {"split": dataset.split, "limit": limit, **predictor.protocol},
        "checkpoint_sha256": predictor.checkpoint_sha256,
        "vocabulary_sha256": vocabulary.digest,
    }
    if unseen is not None:
        result["without_held_out_glyphs"] = {"miou": _number(seen.miou()), "images": seen_images}
    return result


def write_result(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _images_with_held_out_glyphs(root: Path) -> set[str] | None:
    table = root / SCENE_OBJECTS
    if not table.is_file():
        return None
    objects = pd.read_parquet(table, columns=["image_id", "held_out"])
    return set(objects.loc[objects["held_out"], "image_id"])


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
