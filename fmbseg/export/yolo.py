"""YOLO segmentation: `images/train`, `labels/train/*.txt` and `data.yaml`.

A line a region: class and normalised polygon. Every region is one island, as the format has no
parts; holes are cut (`fmbseg.export.polygons`). Coordinates are those of pixel centres.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from fmbseg.export.polygons import polygon
from fmbseg.export.regions import regions
from fmbseg.export.source import Label, LabelledImage
from fmbseg.export.writer import Options, Writer


class YoloSegmentation(Writer):
    """See the module."""

    def __init__(self, folder: Path, options: Options) -> None:
        super().__init__(folder, options)
        self._labels = folder / "labels" / "train"
        self._labels.mkdir(parents=True)
        # Numbers without gaps: the background is no object.
        self._numbers = {index: number for number, index in enumerate(self.classes.objects)}

    def add(self, image: LabelledImage, label: Label) -> None:
        """See `Writer`."""
        height, width = label.shape
        self.place_picture(image, "images/train")
        lines = []
        for region in regions(label, self.classes):
            points = ((polygon(region) + 0.5) / (width, height)).reshape(-1)
            numbers = " ".join(f"{value:.7f}" for value in points)
            lines.append(f"{self._numbers[region.class_index]} {numbers}\n")
        (self._labels / f"{image.image_id}.txt").write_text("".join(lines), encoding="utf-8")

    def finish(self) -> None:
        """See `Writer`."""
        names = {number: self.classes.names[index] for index, number in self._numbers.items()}
        # Without `path` the trainer takes the folder of this file. It asks for a validation set.
        record = {"train": "images/train", "val": "images/train", "names": names}
        text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True)
        (self.folder / "data.yaml").write_text(text, encoding="utf-8")
