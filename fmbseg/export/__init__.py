"""Labels in the formats of other tools: a module a format, and one row of `FORMATS` each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fmbseg.export.coco import Coco
from fmbseg.export.cvat import Cvat
from fmbseg.export.hugging_face import HuggingFace
from fmbseg.export.label_studio import LabelStudio
from fmbseg.export.mmseg import MMSegmentation
from fmbseg.export.voc import Voc
from fmbseg.export.writer import Options, Writer
from fmbseg.export.yolo import YoloSegmentation

FORMATS: Mapping[str, Callable[[Path, Options], Writer]] = {
    "coco": Coco,
    "yolo-seg": YoloSegmentation,
    "voc": Voc,
    "cvat": Cvat,
    "label-studio": LabelStudio,
    "mmseg": MMSegmentation,
    "hf": HuggingFace,
}
"""Format by the name that the command line has for it."""
