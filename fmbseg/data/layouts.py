"""How each benchmark lies on disk, and what its annotation values mean. Facts only, no code.

A pattern is relative to the data set's root and may hold `{split}`, `{group}` (one folder level),
`{stem}` (the part of a name that image and annotation share) and `{extension}` (of an image). A
pattern without `{stem}` is one file with the annotations of all images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fmbseg.data.labels import UNLABELLED

#: A data set without a vocabulary of the package brings one of these in its root: the form with
#: synonyms, or a text file with a class name a line.
OWN_VOCABULARY = "vocabulary.yaml"
OWN_CLASSES = "classes.txt"
#: Entry of a decoding table for a value that the encoding does not have.
UNEXPECTED = -1

DecodingTable = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Annotation:
    """One form of annotation: where the file lies, and what its pixel values mean.

    Attributes:
        pattern: of the annotation file: a single-channel 8-bit picture, or PASCAL in Detail's
            JSON file (`detail.py`), whose masks are read as such a picture.
        values: pixel value -> class index, 255 = ignored. None: the value is the class index.
        encoding: the same in words, for messages.
    """

    pattern: str
    values: Mapping[int, int] | None
    encoding: str

    def table(self, num_classes: int) -> DecodingTable:
        """Decoding table `[256] int16`: class index, 255 = ignored, -1 = not in this encoding."""
        values = {k: k for k in range(num_classes)} if self.values is None else self.values
        table = np.full(256, UNEXPECTED, dtype=np.int16)
        table[UNLABELLED] = UNLABELLED
        for value, index in values.items():
            table[value] = index
        return table


@dataclass(frozen=True)
class DatasetLayout:
    """One data set's layout.

    Attributes:
        root: what the root folder is, for messages.
        images: patterns of the image files; the first whose fixed leading folder exists is used.
        annotations: forms of annotation, the first that exists for an image is used.
        splits: names of the splits; the first is the one scored by default. A data set with the
            single split "all" is not divided.
        vocabulary: name of a vocabulary; None: the data set brings `OWN_VOCABULARY` or
            `OWN_CLASSES`.
        ignored: which pixels are not scored, in words.
        source: what to download, and what of it goes into the root.
        full: how many images each split of the complete set has.
        split_list: patterns of a text file whose lines begin with an image's stem or path, or of
            PASCAL in Detail's JSON file; the first that exists is used. Empty: the split is every
            file that fits the image pattern.
    """

    root: str
    images: tuple[str, ...]
    annotations: tuple[Annotation, ...]
    splits: tuple[str, ...]
    vocabulary: str | None
    ignored: str
    source: str
    full: Mapping[str, int] = field(default_factory=dict)
    split_list: tuple[str, ...] = ()


def _same(count: int) -> dict[int, int]:
    return {value: value for value in range(count)}


def _zero_ignored(count: int) -> dict[int, int]:
    """Value 0 is not scored, values 1..count are classes 0..count-1."""
    return {0: UNLABELLED} | {index + 1: index for index in range(count)}


# COCO's category ids of the 80 object classes run to 90 with gaps; 92 to 182 are the 91 stuff
# classes. A pixel of COCO-Stuff's pixel maps holds category id - 1, 255 where nothing is labelled.
_COCO_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
_COCO_OBJECTS = tuple(c - 1 for c in range(1, 92) if c not in _COCO_GAPS)
_COCO_STUFF = tuple(c - 1 for c in range(92, 183))

_COCO_STUFF_RAW = {p: index for index, p in enumerate((*_COCO_OBJECTS, *_COCO_STUFF))}
# Nothing is ignored in COCO-Object: stuff and unlabelled pixels are both background.
_COCO_OBJECT_RAW = (
    {UNLABELLED: 0}
    | {p: 0 for p in _COCO_STUFF}
    | {p: index + 1 for index, p in enumerate(_COCO_OBJECTS)}
)
_COCO_OBJECT_TRAIN = {UNLABELLED: 0} | {p: p + 1 if p < 80 else 0 for p in range(171)}

# Cityscapes' label ids 0 to 33 (255 is the licence plate's -1); 19 of them are evaluated.
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES_IDS = {v: UNLABELLED for v in range(34)} | {
    value: index for index, value in enumerate(CITYSCAPES_LABEL_IDS)
}

_RAW_COCO = "COCO category id - 1, 255 = unlabelled"
_TRAIN_COCO = "COCO-Stuff train ids 0 to 170, 255 = unlabelled"
_VOC = "0 = background, 1 to 20 = classes, 255 = void"
_CONTEXT = "0 = background, 1 to 59 = classes"


#: All of PASCAL in Detail's annotations in one file; `detail.py` reads it.
DETAIL_FILE = "trainval_merged.json"


def _voc(vocabulary: str, values: Mapping[int, int], ignored: str) -> DatasetLayout:
    return DatasetLayout(
        root="the folder VOC2012",
        images=("JPEGImages/{stem}.jpg",),
        annotations=(Annotation("SegmentationClass/{stem}.png", values, _VOC),),
        splits=("val", "train", "trainval"),
        vocabulary=vocabulary,
        ignored=ignored,
        source="PASCAL VOC 2012's VOCtrainval_11-May-2012.tar; unpacked it holds "
        "VOCdevkit/VOC2012 with JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/",
        full={"val": 1449, "train": 1464, "trainval": 2913},
        split_list=("ImageSets/Segmentation/{split}.txt",),
    )


def _context(vocabulary: str, values: Mapping[int, int], ignored: str) -> DatasetLayout:
    return DatasetLayout(
        root="the folder VOC2010 with PASCAL Context's 59 classes",
        images=("JPEGImages/{stem}.jpg",),
        annotations=(
            Annotation("SegmentationClassContext/{stem}.png", values, _CONTEXT),
            Annotation(DETAIL_FILE, values, "PASCAL in Detail's categories of the 59 classes"),
        ),
        splits=("val", "train"),
        vocabulary=vocabulary,
        ignored=ignored,
        # Masks made from the .mat files of the Context site differ (mmsegmentation PR 474).
        source="PASCAL VOC 2010's VOCtrainval_03-May-2010.tar, unpacked it holds "
        "VOCdevkit/VOC2010 with JPEGImages/; and PASCAL in Detail's trainval_merged.json, put "
        "into VOC2010, from which `fmbseg data prepare` makes SegmentationClassContext/",
        full={"val": 5105, "train": 4998},
        split_list=("ImageSets/SegmentationContext/{split}.txt", DETAIL_FILE),
    )


def _coco(vocabulary: str, annotations: tuple[Annotation, ...], ignored: str) -> DatasetLayout:
    return DatasetLayout(
        root="the folder that holds images/ and annotations/",
        images=("images/{split}/{stem}.jpg",),
        annotations=annotations,
        splits=("val2017", "train2017"),
        vocabulary=vocabulary,
        ignored=ignored,
        source="COCO's val2017.zip (and train2017.zip to train) into images/, COCO-Stuff's "
        "stuffthingmaps_trainval2017.zip into annotations/; one split alone will do",
        full={"val2017": 5000, "train2017": 118287},
    )


LAYOUTS: dict[str, DatasetLayout] = {
    "voc21": _voc("voc21", _same(21), "255 (void, the objects' outlines)"),
    "voc20": _voc("voc20", _zero_ignored(20), "0 (background) and 255 (void)"),
    "context60": _context("context60", _same(60), "255, which the data set does not use"),
    "context59": _context("context59", _zero_ignored(59), "0 (none of the 59 classes)"),
    "coco_stuff": _coco(
        "coco_stuff",
        (
            Annotation("annotations/{split}/{stem}.png", _COCO_STUFF_RAW, _RAW_COCO),
            Annotation("annotations/{split}/{stem}_labelTrainIds.png", _same(171), _TRAIN_COCO),
        ),
        "255 (unlabelled)",
    ),
    "coco_object": _coco(
        "coco_object",
        (
            Annotation("annotations/{split}/{stem}.png", _COCO_OBJECT_RAW, _RAW_COCO),
            Annotation(
                "annotations/{split}/{stem}_labelTrainIds.png", _COCO_OBJECT_TRAIN, _TRAIN_COCO
            ),
            Annotation(
                "annotations/{split}/{stem}_instanceTrainIds.png",
                {UNLABELLED: 0} | _same(81),
                "0 = background, 1 to 80 = classes",
            ),
        ),
        "none: unlabelled pixels (255) and the 91 stuff classes are background",
    ),
    "cityscapes": DatasetLayout(
        root="the folder that holds leftImg8bit/ and gtFine/",
        images=("leftImg8bit/{split}/{group}/{stem}_leftImg8bit.png",),
        annotations=(
            Annotation(
                "gtFine/{split}/{group}/{stem}_gtFine_labelIds.png",
                _CITYSCAPES_IDS,
                "Cityscapes label ids 0 to 33",
            ),
            Annotation(
                "gtFine/{split}/{group}/{stem}_gtFine_labelTrainIds.png",
                _same(19),
                "Cityscapes train ids 0 to 18, 255 = ignored",
            ),
        ),
        splits=("val", "train"),
        vocabulary="cityscapes",
        ignored="label ids outside the 19 evaluated classes (void, parking, caravan, ...)",
        source="Cityscapes' leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, unpacked "
        "into one folder; labelTrainIds are not needed",
        full={"val": 500, "train": 2975},
    ),
    "ade20k": DatasetLayout(
        root="the folder ADEChallengeData2016",
        images=("images/{split}/{stem}.jpg",),
        annotations=(
            Annotation(
                "annotations/{split}/{stem}.png",
                _zero_ignored(150),
                "0 = other, 1 to 150 = classes",
            ),
        ),
        splits=("validation", "training"),
        vocabulary="ade20k",
        ignored="0 (other)",
        source="the scene parsing challenge's ADEChallengeData2016.zip; unpacked it holds "
        "images/ and annotations/",
        full={"validation": 2000, "training": 20210},
    ),
    "camvid": DatasetLayout(
        root="the folder that holds train.txt, val.txt and test.txt",
        images=("{split}/{stem}.png",),
        annotations=(
            Annotation(
                "{split}annot/{stem}.png",
                _same(11) | {11: UNLABELLED},
                "0 to 10 = classes, 11 = void",
            ),
        ),
        splits=("test", "train", "val"),
        vocabulary="camvid",
        ignored="11 (void)",
        source="the folder CamVid of the SegNet tutorial (480 x 360 px, 11 classes)",
        full={"test": 233, "train": 367, "val": 101},
        split_list=("{split}.txt",),
    ),
    "folder": DatasetLayout(
        root="a folder of images (or of images/), with labels/ and a class list beside them or not",
        images=("images/{stem}.{extension}", "{stem}.{extension}"),
        annotations=(
            Annotation("labels/{stem}.png", None, "class index of the class list, 255 = ignored"),
        ),
        splits=("all",),
        vocabulary=None,
        ignored="255",
        source="your own pictures; classes.txt (a name a line) or vocabulary.yaml says what to "
        "look for, labels/ is needed for scoring alone",
    ),
}
