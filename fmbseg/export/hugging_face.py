"""Hugging Face `datasets`: an image folder with two picture columns, `image` and `label`.

`load_dataset("imagefolder", data_dir=...)`; a value of `label` is the class's index, 255 (of 16
bits 65535) what has no label; `id2label.json` has the names.
"""

from __future__ import annotations

import json
from pathlib import Path

from fmbseg.export.pictures import value_png
from fmbseg.export.source import Label, LabelledImage
from fmbseg.export.writer import Options, Writer

_SPLIT = "train"


class HuggingFace(Writer):
    """See the module."""

    def __init__(self, folder: Path, options: Options) -> None:
        super().__init__(folder, options)
        self._labels = folder / _SPLIT / "labels"
        self._labels.mkdir(parents=True)
        self._rows: list[str] = []

    def add(self, image: LabelledImage, label: Label) -> None:
        """See `Writer`."""
        name = self.place_picture(image, f"{_SPLIT}/images")
        content = value_png(label, len(self.classes.names))
        (self._labels / f"{image.image_id}.png").write_bytes(content)
        row = {
            "file_name": f"images/{name}",
            "label_file_name": f"labels/{image.image_id}.png",
            "image_id": image.image_id,
        }
        self._rows.append(json.dumps(row, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """See `Writer`."""
        path = self.folder / _SPLIT / "metadata.jsonl"
        path.write_text("".join(self._rows), encoding="utf-8")
        names = json.dumps(dict(enumerate(self.classes.names)), ensure_ascii=False, indent=1)
        (self.folder / "id2label.json").write_text(names + "\n", encoding="utf-8")
