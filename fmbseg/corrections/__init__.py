"""Labels that people have corrected in other tools: a reader a format, and one row of `READERS`."""

from __future__ import annotations

from collections.abc import Mapping

from fmbseg.corrections.coco import read_coco
from fmbseg.corrections.cvat import read_cvat
from fmbseg.corrections.label_maps import read_label_maps
from fmbseg.corrections.label_studio import read_label_studio
from fmbseg.corrections.target import Reader

READERS: Mapping[str, Reader] = {
    "coco": read_coco,
    "cvat": read_cvat,
    "label-studio": read_label_studio,
    "png": read_label_maps,
}
"""Format by the name that the command line has for it."""
