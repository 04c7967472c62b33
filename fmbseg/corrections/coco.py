"""Corrections in a COCO instances file: polygons, or run lengths of either kind."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from fmbseg.corrections.target import Target, paint, read_json
from fmbseg.errors import DataError
from fmbseg.export.source import Label, LabelledImage

_FARTHEST = 10  # pictures that a polygon's point may lie outside


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
    """The mask [H, W] of a segmentation in a picture of `size`; raises anything."""
    if not isinstance(segmentation, list):
        counts = segmentation["counts"]
        if tuple(segmentation["size"]) != size:
            height, width = segmentation["size"]
            raise ValueError(
                f"a mask of {width} x {height} px in a picture of {size[1]} x {size[0]}"
            )
        return decode_runs(_unpacked(counts) if isinstance(counts, str) else counts, size)
    if not segmentation:
        return np.zeros(size, dtype=np.bool_)
    # pycocotools walks along each edge, however far away it leads.
    farthest = _FARTHEST * max(size)
    for part in segmentation:
        if not all(-farthest <= value <= farthest for value in part):
            raise ValueError("a point far outside of the picture")
    code = coco.merge(coco.frPyObjects(segmentation, *size))
    mask: npt.NDArray[np.bool_] = coco.decode(code).astype(np.bool_)
    return mask


def decode_runs(counts: Sequence[int], size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The mask [H, W] bool of COCO's run lengths: down the columns, without and with in turn.

    Not by pycocotools, which writes past its memory where they are longer than the picture.

    Raises:
        ValueError: they do not add up to the picture, or one is negative.
    """
    lengths = [operator.index(count) for count in counts]
    if min(lengths, default=0) < 0 or sum(lengths) != size[0] * size[1]:
        raise ValueError(f"runs of {sum(lengths)} pixels in a picture of {size[0] * size[1]}")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(size[1], size[0]).T


def _unpacked(text: str) -> list[int]:
    """Run lengths out of COCO's packed form.

    A number is groups of 5 bits, low ones first, each a character from "0" on; 32 says that another
    follows, 16 in the last that it is negative. From the fourth number on each is what it is more
    than the one before the last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError("packed run lengths are damaged")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("packed run lengths end too early")
    return counts
