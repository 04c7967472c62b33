"""Corrections in a COCO instances file: polygons, or run lengths of either kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from fmbseg.corrections.target import Target, paint, read_json
from fmbseg.errors import DataError
from fmbseg.export.source import Label, LabelledImage


def read_coco(path: Path, target: Target) -> Iterator[tuple[LabelledImage, Label]]:
    """See `Reader`. Of annotations that overlap the later one lies on top."""
    record = read_json(path)
    try:
        names = {entry["id"]: str(entry["name"]) for entry in record["categories"]}
        images = {entry["id"]: entry for entry in record["images"]}
        annotations: dict[Any, list[dict[str, Any]]] = {number: [] for number in images}
        for annotation in record["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
            names[annotation["category_id"]], annotation["segmentation"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is no COCO instances file ({error!r}): export it again") from error
    for number, entry in images.items():
        image = target.image(str(entry.get("file_name")), path)
        size = (entry["height"], entry["width"]) if {"height", "width"} <= set(entry) else None
        label = target.empty(image, size, path)
        for annotation in annotations[number]:
            index = target.class_index(names[annotation["category_id"]], path)
            try:
                mask = _mask(annotation["segmentation"], label.shape)
            except Exception as error:  # pycocotools raises what it likes
                raise DataError(
                    f"{path}: the segmentation of annotation {annotation.get('id')} is damaged "
                    f"({error}): export it again"
                ) from error
            paint(label, mask, index, path)
        yield image, label


def _mask(segmentation: Any, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if isinstance(segmentation, list):
        code = coco.merge(coco.frPyObjects(segmentation, *size)) if segmentation else None
    elif isinstance(segmentation["counts"], list):
        code = coco.frPyObjects(segmentation, *segmentation["size"])
    else:
        code = segmentation
    if code is None:
        return np.zeros(size, dtype=np.bool_)
    mask: npt.NDArray[np.bool_] = coco.decode(code).astype(np.bool_)
    return mask
