"""PASCAL in Detail's `trainval_merged.json`: the annotations PASCAL Context is scored with.

The file holds `images` (image_id, file_name, width, height, phase: train, val or test) and
`annos_segmentation` (image_id, category_id, segmentation: COCO's compressed run lengths), besides
parts, joints and occlusions, which are not read.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.errors import DataError

# Category ids of the 59 classes, in the benchmark's order (both are alphabetical).
CATEGORY_IDS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113),
    *(115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324),
    *(326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
_LOCK = threading.Lock()
_CLASS = {category: index for index, category in enumerate(CATEGORY_IDS, start=1)}


@dataclass(frozen=True)
class _Image:
    """One image: its size in pixels, its phase, and (category id, run lengths) in file order."""

    width: int
    height: int
    phase: str
    masks: list[tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class DetailFile:
    """The masks of the 59 classes out of the JSON file; made by `load_detail`."""

    path: Path
    _images: dict[str, _Image]

    def stems(self, split: str) -> list[str]:
        """Stems of a split's images, sorted; raises DataError for a split without images."""
        found = sorted(stem for stem, image in self._images.items() if image.phase == split)
        if not found:
            phases = ", ".join(sorted({image.phase for image in self._images.values()}))
            raise DataError(f"{self.path} has no image of the split {split!r}: it has {phases}")
        return found

    def mask(self, stem: str) -> npt.NDArray[np.uint8]:
        """What `SegmentationClassContext` holds: `[H, W] uint8`, 0 background, 1..59 classes.

        Later masks lie over earlier ones, as in the published conversion.

        Raises:
            DataError: no such image, a category outside the 59 classes, or a damaged mask.
        """
        from pycocotools import mask as coco_mask  # here: asking a head reads no annotation

        if stem not in self._images:
            raise DataError(f"{self.path} has no image {stem}: remove it from the split")
        image = self._images[stem]
        label: npt.NDArray[np.uint8] = np.zeros((image.height, image.width), np.uint8)
        for category, runs in image.masks:
            if category not in _CLASS:
                raise DataError(
                    f"{self.path}: image {stem} has category {category}, which is none of the 59 "
                    "classes: is it the file of PASCAL Context?"
                )
            try:
                covered = coco_mask.decode(runs).astype(bool)
                label[covered] = _CLASS[category]
            except (IndexError, TypeError, ValueError) as error:
                raise DataError(f"{self.path}: a mask of image {stem} is damaged") from error
        return label


def load_detail(path: Path) -> DetailFile:
    """Read the file; the last one read is kept, since the full file is hundreds of MB.

    Raises:
        DataError: missing, not JSON, or another kind of JSON.
    """
    try:
        with _LOCK:  # several threads may ask for masks at once
            return _load(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=1)
def _load(path: Path, modified: int) -> DetailFile:
    try:
        content = json.loads(path.read_bytes())
        images = {
            int(entry["image_id"]): (
                Path(str(entry["file_name"])).stem,
                _Image(int(entry["width"]), int(entry["height"]), str(entry["phase"]), []),
            )
            for entry in content["images"]
        }
        for mask in content["annos_segmentation"]:
            _, image = images[int(mask["image_id"])]
            image.masks.append((int(mask["category_id"]), dict(mask["segmentation"])))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} is not PASCAL in Detail's annotation file ({type(error).__name__}: {error}): "
            "download it again"
        ) from error
    return DetailFile(path, dict(images.values()))
