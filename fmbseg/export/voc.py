"""PASCAL VOC: `JPEGImages`, `SegmentationClass`, `SegmentationObject`, `ImageSets/Segmentation`.

Values of the class maps: 0 is the background, 255 (of 16 bits 65535) void, which is what has no
label; the classes follow from 1 on in their order. `labelmap.txt` has `name:r,g,b::` lines.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fmbseg.export.pictures import value_png, voc_colours
from fmbseg.export.source import BACKGROUND, NOTHING, Classes, Label, LabelledImage
from fmbseg.export.writer import Options, Writer

LABELMAP = "labelmap.txt"
_LIST = "ImageSets/Segmentation"


class Voc(Writer):
    """See the module."""

    def __init__(self, folder: Path, options: Options) -> None:
        super().__init__(folder, options)
        self._ids: list[str] = []
        for name in ("SegmentationClass", "SegmentationObject", _LIST):
            (folder / name).mkdir(parents=True)

    def add(self, image: LabelledImage, label: Label) -> None:
        """See `Writer`."""
        self.place_picture(image, "JPEGImages")
        self._ids.append(image.image_id)
        file = f"{image.image_id}.png"
        values = voc_values(label, self.classes)
        objects = np.where(values == NOTHING, NOTHING, 0).astype(np.int32)
        found = self.regions(image, label)
        for number, region in enumerate(found, start=1):
            objects[region.place][region.inside] = number
        for folder, map_, count in (
            ("SegmentationClass", values, len(voc_names(self.classes))),
            ("SegmentationObject", objects, len(found) + 1),
        ):
            (self.folder / folder / file).write_bytes(value_png(map_, count, palette=True))

    def finish(self) -> None:
        """See `Writer`."""
        names = voc_names(self.classes)
        (self.folder / LABELMAP).write_text(labelmap(names, ignored=True), encoding="utf-8")
        text = "".join(f"{image_id}\n" for image_id in self._ids)
        (self.folder / _LIST / "train.txt").write_text(text, encoding="utf-8")


def voc_names(classes: Classes) -> list[str]:
    """Names by VOC's values: the background first, which every such set has."""
    own = classes.background
    return [
        BACKGROUND if own is None else classes.names[own],
        *(classes.names[index] for index in classes.objects),
    ]


def voc_values(label: Label, classes: Classes) -> Label:
    """A label map in VOC's values; `NOTHING` stays."""
    table = np.full(len(classes.names) + 1, NOTHING, dtype=np.int32)  # its last: NOTHING
    for value, index in enumerate(classes.objects, start=1):
        table[index] = value
    if classes.background is not None:
        table[classes.background] = 0
    return table[label]


def labelmap(names: list[str], *, ignored: bool) -> str:
    """`labelmap.txt`: name, colour, parts and actions, a line a value.

    Args:
        names: by value.
        ignored: with VOC's entry for what is left out.
    """
    colours = label_colours(len(names)).tolist()
    lines = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(names, colours, strict=True)]
    if ignored:
        r, g, b = voc_colours(256)[255].tolist()
        lines.append(f"ignored:{r},{g},{b}::")
    return "# label:color_rgb:parts:actions\n" + "".join(f"{line}\n" for line in lines)


def label_colours(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Colours [count, 3] of values; the one of 255 stays free for what is left out."""
    colours: np.ndarray[tuple[int, int], np.dtype[np.uint8]] = np.delete(
        voc_colours(max(count, 255) + 1), 255, axis=0
    )[:count]
    return colours
