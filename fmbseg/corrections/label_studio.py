"""Corrections in Label Studio's JSON export: brush masks of the last annotation of each task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fmbseg.corrections.target import Target, paint, read_json
from fmbseg.errors import DataError
from fmbseg.export.brush import decode_brush
from fmbseg.export.source import Label, LabelledImage

_BRUSH = "brushlabels"


def read_label_studio(path: Path, target: Target) -> Iterator[tuple[LabelledImage, Label]]:
    """See `Reader`. A task that nobody has annotated is left out."""
    tasks = read_json(path)
    try:
        for task in tasks:
            done = [each for each in task.get("annotations", []) if not each.get("was_cancelled")]
            if not done:
                continue
            data = task["data"]
            name = data.get("image_id") or unquote(
                data["image"].partition("?d=")[2] or data["image"]
            )
            image = target.image(str(name), path)
            yield image, _painted(done[-1]["result"], image, target, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no JSON export of Label Studio ({error!r}): export it as JSON"
        ) from error


def _painted(
    result: list[dict[str, Any]], image: LabelledImage, target: Target, path: Path
) -> Label:
    label = target.empty(image, None, path)
    for region in result:
        if region["type"] != _BRUSH:
            raise DataError(
                f"{path}: a region of {image.image_id} is of the type {region['type']!r}: "
                "correct with the brush alone"
            )
        size = (region["original_height"], region["original_width"])
        if size != label.shape:
            target.empty(image, size, path)  # says what does not fit
        mask = decode_brush(region["value"]["rle"], size)
        for name in region["value"][_BRUSH]:
            paint(label, mask, target.class_index(name, path), path)
    return label
