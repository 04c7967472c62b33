"""MMSegmentation: `images/train`, `annotations/train/*.png`, and `dataset.py` for its configs.

A value is the class's index, 255 (of 16 bits 65535) what has no label. The data set classes of
MMSegmentation know one extension of pictures: where a source has several, all become PNG.
"""

from __future__ import annotations

from pathlib import Path

from fmbseg.export.pictures import value_png, voc_colours
from fmbseg.export.source import Label, LabelledImage
from fmbseg.export.writer import Options, Writer, place_picture

_PICTURES, _LABELS = "images/train", "annotations/train"


class MMSegmentation(Writer):
    """See the module."""

    def __init__(self, folder: Path, options: Options) -> None:
        super().__init__(folder, options)
        (folder / _LABELS).mkdir(parents=True)
        self._suffix = next(iter(options.suffixes)) if len(options.suffixes) == 1 else ".png"

    def add(self, image: LabelledImage, label: Label) -> None:
        """See `Writer`."""
        folder, link = self.folder / _PICTURES, self.options.link
        name = place_picture(image, folder, link=link, suffix=self._suffix)
        if not name.endswith(self._suffix):  # an extension in capitals
            (folder / name).rename(folder / f"{image.image_id}{self._suffix}")
        content = value_png(label, len(self.classes.names), palette=True)
        (self.folder / _LABELS / f"{image.image_id}.png").write_bytes(content)

    def finish(self) -> None:
        """See `Writer`."""
        names = self.classes.names
        lines = [
            '"""Data set of an MMSegmentation config; data_root is this file\'s folder."""',
            "",
            f"metainfo = dict(classes={names!r}, palette={voc_colours(len(names)).tolist()!r})",
            "dataset = dict(",
            '    type="BaseSegDataset",',
            '    data_root="",',
            f'    data_prefix=dict(img_path="{_PICTURES}", seg_map_path="{_LABELS}"),',
            f'    img_suffix="{self._suffix}",',
            '    seg_map_suffix=".png",',
            f"    ignore_index={65535 if self.classes.deep else 255},",
            "    reduce_zero_label=False,",
            "    metainfo=metainfo,",
            ")",
        ]
        text = "".join(f"{line}\n" for line in lines)
        (self.folder / "dataset.py").write_text(text, encoding="utf-8")
