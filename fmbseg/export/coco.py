"""COCO: instances (run lengths, so holes survive) and panoptic (PNG and JSON).

`images/`, `annotations/instances.json`, `annotations/panoptic.json`, `annotations/panoptic/*.png`.
A category's id is the class's index + 1. Panoptic: id = R + 256 G + 256^2 B, 0 is void.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fmbseg.export.json_stream import JsonList
from fmbseg.export.pictures import colour_png, voc_colours
from fmbseg.export.source import Label, LabelledImage
from fmbseg.export.writer import Options, Writer
from fmbseg.pseudo.tables import encode_masks


class Coco(Writer):
    """See the module."""

    def __init__(self, folder: Path, options: Options) -> None:
        super().__init__(folder, options)
        self._images: list[dict[str, Any]] = []
        self._segments: list[dict[str, Any]] = []
        self._next_id = 1
        self._panoptic = folder / "annotations" / "panoptic"
        self._panoptic.mkdir(parents=True)
        head = json.dumps({"categories": self._categories(), "info": {"description": "fmbseg"}})
        self._annotations = JsonList(
            folder / "annotations" / "instances.json", f'{head[:-1]}, "annotations": '
        )

    def add(self, image: LabelledImage, label: Label) -> None:
        """See `Writer`."""
        height, width = label.shape
        number = len(self._images) + 1
        name = self.place_picture(image, "images")
        self._images.append({"id": number, "file_name": name, "height": height, "width": width})
        painted = np.zeros(label.shape, dtype=np.int64)
        segments = []
        for region in self.regions(image, label):
            mask = region.mask(label.shape)
            painted[mask] = self._next_id
            shared = {
                "id": self._next_id,
                "category_id": region.class_index + 1,
                "bbox": list(region.box),
                "area": region.area,
                "iscrowd": 0,
            }
            segments.append(shared)
            code = {"size": [height, width], "counts": encode_masks(mask[None])[0]}
            annotation = shared | {"image_id": number, "segmentation": code}
            if region.score is not None:
                annotation["score"] = round(region.score, 6)
            self._annotations.add(annotation)
            self._next_id += 1
        file = f"{image.image_id}.png"
        channels = [painted & 255, painted >> 8 & 255, painted >> 16 & 255]
        picture = colour_png(np.stack(channels, axis=-1).astype(np.uint8))
        (self._panoptic / file).write_bytes(picture)
        self._segments.append({"image_id": number, "file_name": file, "segments_info": segments})

    def finish(self) -> None:
        """See `Writer`."""
        self._annotations.close(f', "images": {json.dumps(self._images)}}}\n')
        record = {
            "info": {"description": "fmbseg"},
            "images": self._images,
            "annotations": self._segments,
            "categories": self._categories(),
        }
        path = self.folder / "annotations" / "panoptic.json"
        path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")

    def _categories(self) -> list[dict[str, Any]]:
        colours = voc_colours(len(self.classes.names) + 1)[1:].tolist()
        return [
            {
                "id": index + 1,
                "name": self.classes.names[index],
                "supercategory": "",
                "isthing": int(index not in self.options.stuff),
                "color": colours[index],
            }
            for index in self.classes.objects
        ]
