"""Label Studio: `tasks.json` with a brush mask a region as predictions, `config.xml`, `images/`.

Tasks name their pictures by a URL: that of a local storage, or `Options.url` and the file name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from fmbseg.export.brush import encode_brush
from fmbseg.export.json_stream import JsonList
from fmbseg.export.source import Label, LabelledImage
from fmbseg.export.voc import label_colours
from fmbseg.export.writer import Options, Writer

FROM, TO = "tag", "image"
_MODEL = "fmbseg"


class LabelStudio(Writer):
    """See the module."""

    def __init__(self, folder: Path, options: Options) -> None:
        super().__init__(folder, options)
        self._tasks = JsonList(folder / "tasks.json")
        self._written = 0

    def add(self, image: LabelledImage, label: Label) -> None:
        """See `Writer`."""
        height, width = label.shape
        name = self.place_picture(image, "images")
        found = self.regions(image, label)
        result: list[dict[str, Any]] = []
        for number, region in enumerate(found):
            entry = {
                "id": f"region{number}",
                "type": "brushlabels",
                "from_name": FROM,
                "to_name": TO,
                "origin": "prediction",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "format": "rle",
                    "rle": encode_brush(region.mask(label.shape)),
                    "brushlabels": [self.classes.names[region.class_index]],
                },
            }
            if region.score is not None:
                entry["score"] = _score(region.score)
            result.append(entry)
        prediction: dict[str, Any] = {"model_version": _MODEL, "result": result}
        scored = [region for region in found if region.score is not None]
        if scored:
            area = sum(region.area for region in scored)
            mean = sum((region.score or 0.0) * region.area for region in scored) / area
            prediction["score"] = _score(mean)
        self._written += 1
        data = {
            "image": f"{self.options.url}{name}",
            "image_id": image.image_id,
            "order": self._written,  # a column to sort tasks by
        }
        self._tasks.add({"data": data, "predictions": [prediction]})

    def finish(self) -> None:
        """See `Writer`."""
        self._tasks.close()
        view = ElementTree.Element("View")
        ElementTree.SubElement(view, "Image", name=TO, value="$image", zoom="true")
        labels = ElementTree.SubElement(view, "BrushLabels", name=FROM, toName=TO)
        colours = label_colours(len(self.classes.names) + 1)[1:].tolist()
        for index in self.classes.objects:
            colour = "#{:02x}{:02x}{:02x}".format(*colours[index])
            name = self.classes.names[index]
            ElementTree.SubElement(labels, "Label", value=name, background=colour)
        ElementTree.indent(view)
        text = ElementTree.tostring(view, encoding="unicode")
        (self.folder / "config.xml").write_text(text + "\n", encoding="utf-8")


def _score(similarity: float) -> float:
    """A cosine as a score, which is 0 to 1."""
    return round(min(max(similarity, 0.0), 1.0), 6)
