"""CVAT's "Segmentation mask 1.1": `annotations.zip` to upload, `images/`, `labels.json`.

The archive holds VOC's folders with colours in place of indices. CVAT makes a mask of every
object; black is the background, and what has no label where there is none. Where the classes have
a background, unlabelled pixels have VOC's colour "ignored".
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fmbseg.errors import DataError
from fmbseg.export.pictures import colour_png, voc_colours
from fmbseg.export.source import NOTHING, Label, LabelledImage
from fmbseg.export.voc import LABELMAP, label_colours, labelmap, voc_names, voc_values
from fmbseg.export.writer import Options, Writer

ARCHIVE = "annotations.zip"


class Cvat(Writer):
    """See the module."""

    def __init__(self, folder: Path, options: Options) -> None:
        super().__init__(folder, options)
        for name in self.classes.names:
            if ":" in name:
                raise DataError(f"CVAT's label map takes no colon in a name: rename {name!r}")
        self._names = voc_names(self.classes)
        self._archive = zipfile.ZipFile(folder / ARCHIVE, "w")
        self._ids: list[str] = []
        # One more, the last, for NOTHING.
        ignored = voc_colours(256)[255] if self.classes.background is not None else (0, 0, 0)
        self._colours = np.vstack([label_colours(len(self._names)), ignored]).astype(np.uint8)

    def add(self, image: LabelledImage, label: Label) -> None:
        """See `Writer`."""
        self.place_picture(image, "images")
        self._ids.append(image.image_id)
        file = f"{image.image_id}.png"
        found = self.regions(image, label)
        objects = np.zeros(label.shape, dtype=np.int64)
        for number, region in enumerate(found, start=1):
            objects[region.place][region.inside] = number
        values = voc_values(label, self.classes)
        painted = self._colours[np.where(values == NOTHING, len(self._names), values)]
        self._write(f"SegmentationClass/{file}", colour_png(painted))
        colours = voc_colours(len(found) + 1)
        self._write(f"SegmentationObject/{file}", colour_png(colours[objects]))

    def finish(self) -> None:
        """See `Writer`."""
        ignored = self.classes.background is not None
        self._write(LABELMAP, labelmap(self._names, ignored=ignored).encode())
        names = "".join(f"{image_id}\n" for image_id in self._ids)
        self._write("ImageSets/Segmentation/default.txt", names.encode())
        self._archive.close()
        text = json.dumps(self._labels(), ensure_ascii=False, indent=1)
        (self.folder / "labels.json").write_text(text + "\n", encoding="utf-8")

    def _labels(self) -> list[dict[str, Any]]:
        """What CVAT's label constructor takes as raw text."""
        colours = self._colours.tolist()
        return [
            {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*colour), "attributes": []}
            for name, colour in list(zip(self._names, colours, strict=False))[1:]
        ]

    def _write(self, name: str, content: bytes) -> None:
        # With a fixed time: the same labels give the same archive.
        self._archive.writestr(zipfile.ZipInfo(name), content)
