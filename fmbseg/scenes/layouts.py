"""The benchmarks' own layouts and label encodings, as scenes are written in them.

Each layout is one record of `SCENE_LAYOUTS`; the adapters of `data/datasets.py` read what is
written so (`files.py`) exactly as they read the real data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmbseg.config import SceneLayoutName
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.layouts import CITYSCAPES_LABEL_IDS
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.data.vocabulary.translation import classes_by_word, same_class
from fmbseg.scenes.classes import SCENE_CLASSES, STUFF_CLASSES, THING_CLASSES
from fmbseg.scenes.render import Scene


@dataclass(frozen=True)
class SceneLayout:
    """How one benchmark keeps its images, labels and splits.

    Attributes:
        folder: the usual name of the data set's root.
        image: path below it with {split}, {name} and {group} (the name up to its first "_").
        label: likewise.
        name: of scene i of a split.
        encode: makes the label picture of a scene.
        splits: train and val in the layout's own words.
        classes: scene classes the benchmark names, and their index there; empty: all alike.
        split_list: the text file of a split's names; None: the folders say it.
        split_line: a line of it.
        notes: further files of the root and their text.
    """

    folder: str
    image: str
    label: str
    name: Callable[[str, int], str]
    encode: Callable[[Scene], Image.Image]
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "val": "val"})
    classes: Mapping[str, int] = field(default_factory=dict)
    split_list: str | None = None
    split_line: str = "{name}"
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def things(self) -> tuple[str, ...]:
        """Classes most objects are drawn from; none: all."""
        return tuple(c.name for c in THING_CLASSES if c.name in self.classes)

    @property
    def stuff(self) -> tuple[str, ...]:
        """Classes backgrounds are drawn from; none: all."""
        return tuple(c.name for c in STUFF_CLASSES if c.name in self.classes)

    def paths(self, root: Path, split: str, name: str) -> tuple[Path, Path]:
        """Image and label file of a scene; `split` is train or val."""
        fields = {"split": self.splits[split], "name": name, "group": name.partition("_")[0]}
        return root / self.image.format_map(fields), root / self.label.format_map(fields)


def _voc_label(scene: Scene) -> Image.Image:
    """PASCAL VOC: palette PNG, 0 background, 1..20, and a band of 255 around every object."""
    table = np.array([c.voc_index or 0 for c in SCENE_CLASSES], np.uint8)
    label = table[scene.label]
    objects = np.where(label > 0, scene.instance, 0).astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    label[cv2.dilate(objects, kernel) != cv2.erode(objects, kernel)] = UNLABELLED
    picture = Image.fromarray(label)
    picture.putpalette(voc_palette().tobytes())
    return picture


def voc_palette() -> NDArray[np.uint8]:
    """The PASCAL VOC colour map, uint8 [256, 3]: bit k of channel c is bit 3k + c of the index."""
    index, channel, bit = np.ogrid[:256, :3, :8]
    bits = ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return np.asarray(bits.sum(axis=2), np.uint8)


def benchmark_classes(vocabulary: str) -> dict[str, int]:
    """Scene class -> class index of a benchmark, for the scene classes the benchmark names."""
    other = classes_by_word(load_vocabulary(vocabulary))
    found = {c.name: same_class((c.name, *c.synonyms), other) for c in SCENE_CLASSES}
    return {name: index for name, index in found.items() if index is not None}


def _table(classes: Mapping[str, int], values: Sequence[int], other: int) -> NDArray[np.uint8]:
    """Scene class -> raw value, uint8 [scene classes]: `values` of the class, else `other`."""
    named = [values[classes[c.name]] if c.name in classes else other for c in SCENE_CLASSES]
    return np.array(named, np.uint8)


def _plain_label(table: NDArray[np.uint8], scene: Scene) -> Image.Image:
    return Image.fromarray(table[scene.label])


def _cityscapes_label(table: NDArray[np.uint8], scene: Scene) -> Image.Image:
    """Cityscapes' label ids; a border of two pixels is 3, out of the region of interest."""
    label = np.full(scene.label.shape, 3, np.uint8)
    label[2:-2, 2:-2] = table[scene.label][2:-2, 2:-2]
    return Image.fromarray(label)


_CONTEXT = benchmark_classes("context60")
_CITYSCAPES = benchmark_classes("cityscapes")
_ADE20K = benchmark_classes("ade20k")
_CAMVID = benchmark_classes("camvid")

SCENE_LAYOUTS: Mapping[str, SceneLayout] = {
    "voc2012": SceneLayout(
        folder="VOC2012",
        image="JPEGImages/{name}.jpg",
        label="SegmentationClass/{name}.png",
        name=lambda split, i: f"{2011 if split == 'train' else 2012}_{i + 1:06d}",
        encode=_voc_label,
        classes={c.name: c.voc_index for c in SCENE_CLASSES if c.voc_index},
        split_list="ImageSets/Segmentation/{split}.txt",
    ),
    "pascal_context": SceneLayout(
        folder="VOC2010",
        image="JPEGImages/{name}.jpg",
        label="SegmentationClassContext/{name}.png",
        name=lambda split, i: f"{2008 if split == 'train' else 2010}_{i + 1:06d}",
        encode=partial(_plain_label, _table(_CONTEXT, range(60), other=0)),
        classes=_CONTEXT,
        split_list="ImageSets/SegmentationContext/{split}.txt",
    ),
    "coco_stuff164k": SceneLayout(
        folder="coco_stuff164k",
        image="images/{split}/{name}.jpg",
        label="annotations/{split}/{name}.png",
        name=lambda split, i: f"{i + 1 + (0 if split == 'train' else 500_000):012d}",
        encode=partial(_plain_label, np.array([c.coco_id for c in SCENE_CLASSES], np.uint8)),
        splits={"train": "train2017", "val": "val2017"},
    ),
    "cityscapes": SceneLayout(
        folder="cityscapes",
        image="leftImg8bit/{split}/{group}/{name}_leftImg8bit.png",
        label="gtFine/{split}/{group}/{name}_gtFine_labelIds.png",
        name=lambda split, i: f"{'aachen' if split == 'train' else 'frankfurt'}_000000_{i + 1:06d}",
        encode=partial(_cityscapes_label, _table(_CITYSCAPES, CITYSCAPES_LABEL_IDS, other=0)),
        classes=_CITYSCAPES,
    ),
    "ade20k": SceneLayout(
        folder="ADEChallengeData2016",
        image="images/{split}/{name}.jpg",
        label="annotations/{split}/{name}.png",
        name=lambda split, i: f"ADE_{split}_{i + 1:08d}",
        encode=partial(_plain_label, _table(_ADE20K, range(1, 151), other=0)),
        splits={"train": "training", "val": "validation"},
        classes=_ADE20K,
    ),
    "camvid": SceneLayout(
        folder="CamVid",
        image="{split}/{name}.png",
        label="{split}annot/{name}.png",
        name=lambda split, i: f"{'0006R0' if split == 'train' else '0016E5'}_f{i + 1:05d}",
        encode=partial(_plain_label, _table(_CAMVID, range(11), other=11)),
        classes=_CAMVID,
        split_list="{split}.txt",
        split_line="{split}/{name}.png {split}annot/{name}.png",
    ),
    "folder": SceneLayout(
        folder="folder",
        image="images/{name}.jpg",
        label="labels/{name}.png",
        name=lambda split, i: f"{split}_{i + 1:06d}",
        encode=partial(_plain_label, np.arange(len(SCENE_CLASSES), dtype=np.uint8)),
        splits={"train": "all", "val": "all"},
        notes={"classes.txt": "".join(f"{c.name}\n" for c in SCENE_CLASSES)},
    ),
}
assert tuple(SCENE_LAYOUTS) == get_args(SceneLayoutName)


def image_count(layout: str, root: Path) -> int:
    """How many images of scenes there are in a folder already."""
    record = SCENE_LAYOUTS[layout]
    fields = {"name": "*", "group": "*"}
    patterns = {record.image.format_map(fields | {"split": s}) for s in record.splits.values()}
    return sum(1 for pattern in patterns for _ in root.glob(pattern))
