"""Published results, to be printed beside measured ones: other weights, other training data.

Table 1 of FMbSeg (arXiv 2403.09307), mIoU in percent, digits as printed there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COLUMNS: Mapping[str, str] = {
    "voc21": "PV-21",
    "voc20": "PV-20",
    "context59": "PC-59",
    "coco_object": "CO-80",
    "coco_stuff": "CS-171",
    "cityscapes": "City",
    "ade20k": "ADE",
}
"""Benchmark -> column of Table 1, in its order."""

CONTEXT_NOTE = (
    "published PC-59 is as printed; at least GroupViT, ReCo, SCCLIP and SAM-CLIP have there what "
    "is their Context-60 value elsewhere"
)


PUBLISHED = "published"


@dataclass(frozen=True)
class Row:
    """One row of the table of all results.

    Attributes:
        method: its name.
        source: where its numbers are from: `PUBLISHED` or what the report says.
        basis: protocol and weights, or the training data of a published row ("-": none).
        miou: by benchmark, percent as shown; a benchmark that is not there has no value.
        images: by benchmark, how many were scored; published rows have none.
    """

    method: str
    source: str
    basis: str
    miou: Mapping[str, str]
    images: Mapping[str, int]


def _row(method: str, training_data: str, *values: str) -> Row:
    found = {name: v for name, v in zip(COLUMNS, values, strict=True) if v != "-"}
    return Row(method, PUBLISHED, training_data, found, {})


TABLE_1 = (
    _row("GroupViT", "41M + labels", "50.4", "79.7", "18.7", "27.5", "15.3", "11.1", "9.2"),
    _row("MaskCLIP", "-", "38.8", "74.9", "23.6", "20.6", "16.4", "12.6", "9.8"),
    _row("ReCo", "-", "25.1", "57.7", "19.9", "31.6", "14.8", "21.1", "11.2"),
    _row("TCL", "15M + labels", "55.0", "83.2", "33.9", "31.6", "22.4", "24.0", "17.1"),
    _row("CLIP-S4", "0.12M", "-", "-", "33.6", "-", "22.1", "-", "-"),
    _row("SCCLIP", "-", "59.1", "-", "30.4", "-", "22.4", "-", "-"),
    _row("CLIP-DIY", "-", "59.0", "-", "30.4", "-", "-", "-", "-"),
    _row("CaR", "-", "67.6", "-", "30.5", "36.6", "-", "-", "-"),
    _row("SAM-CLIP", "41M", "60.6", "-", "29.2", "-", "31.5", "-", "17.1"),
    _row("FMbSeg", "0.12M", "67.73", "85.65", "42.72", "57.63", "29.88", "28.36", "16.25"),
)
