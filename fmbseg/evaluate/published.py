"""Published results, to be printed beside measured ones: other weights, other training data.

Table 1 of FMbSeg (arXiv 2403.09307), and what its peers say of themselves or of each other. MIoU in
percent, digits as printed there.
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


PEER_COLUMNS: Mapping[str, str] = {
    "voc21": "PV-21",
    "context60": "PC-60",
    "coco_object": "CO-80",
    "voc20": "PV-20",
    "context59": "PC-59",
    "coco_stuff": "CS-171",
    "cityscapes": "City",
    "ade20k": "ADE",
}
"""Benchmark -> column of the peers' table, in the order of its sources."""

PEERS_NOTE = (
    "rows of two sources are no ranking: numbers of one method differ between papers (own runs, "
    "other protocols, thresholds tuned for each benchmark)"
)


@dataclass(frozen=True)
class PeerGroup:
    """Peers that may use the same things: only such rows compare.

    Attributes:
        title: what they may use.
        rows: `Row.source` is whose table a row is from, `Row.basis` what the method uses.
    """

    title: str
    rows: tuple[Row, ...]


def _peer(method: str, uses: str, source: str, values: str) -> Row:
    return Row(method, source, uses, dict(zip(PEER_COLUMNS, values.split(), strict=True)), {})


_TRIDENT, _BANK, _OWN = "Trident's README", "ConceptBank's table", "its README"
_B16 = "CLIP B/16"
_CLIP_ALONE = (
    _peer("MaskCLIP", _B16, _TRIDENT, "43.4 23.2 20.6 74.9 26.4 16.7 24.9 11.9"),
    _peer("SCLIP", _B16, _TRIDENT, "59.1 30.4 30.5 80.4 34.2 22.4 32.2 16.1"),
    _peer("ClearCLIP", _B16, "ResCLIP's figures", "51.8 32.6 33.0 80.9 35.9 23.9 30.0 16.7"),
    _peer(
        "NACLIP + PAMR",
        _B16,
        "NACLIP's README",
        "64.07 34.99 36.19 83.03 38.35 25.69 38.27 19.05",
    ),
    _peer("RF-CLIP", _B16, _BANK, "67.2 37.9 39.1 87.0 41.4 27.5 43.0 21.0"),
)
_CLIP_DINO_SAM = (
    _peer("ProxyCLIP", "CLIP B/16 + DINO B/8", _TRIDENT, "61.3 35.3 37.5 80.3 39.1 26.5 38.1 20.2"),
    _peer("Trident", "CLIP B/16 + DINO + SAM", _TRIDENT, "67.1 38.6 41.1 84.5 42.2 28.3 42.9 21.9"),
    _peer(
        "CorrCLIP L/14", "MetaCLIP + DINO + SAM2", _OWN, "76.7 44.9 49.4 91.5 50.8 34.0 51.1 30.7"
    ),
    _peer(
        "OV-Stitcher", "MetaCLIP B + DINO + SAM2", _OWN, "76.4 43.9 44.6 88.7 49.1 32.1 52.3 27.8"
    ),
    _peer(
        "ReME",
        "CLIP + DINOv2 + SAM or superpixels + LLaVA captions",
        _BANK,
        "82.2 44.6 48.2 93.2 53.1 33.3 59.0 28.2",
    ),
)
_ONE_TOWER = (
    _peer(
        "CLIP-DINOiser",
        "LAION B/16, trained head",
        _TRIDENT,
        "62.1 32.4 34.8 80.9 35.9 24.6 31.7 20.0",
    ),
    _peer(
        "Talk2DINO",
        "DINOv2 B + CLIP text, COCO captions",
        _BANK,
        "65.8 37.7 45.1 88.5 42.4 30.2 38.1 22.5",
    ),
)
_SUPERVISED = (
    _peer(
        "CorrCLIPv2 L, COCO bank",
        "CLIP + EntitySeg: masks drawn by people",
        _OWN,
        "82.3 51.1 58.0 93.2 56.8 39.1 59.2 36.5",
    ),
    _peer(
        "SAM3 as it is", "supervised: a ceiling", _BANK, "81.9 46.1 65.4 88.9 50.0 33.3 62.3 31.8"
    ),
)
PEERS = (
    PeerGroup("CLIP alone", _CLIP_ALONE),
    PeerGroup("CLIP with DINO and SAM", _CLIP_DINO_SAM),
    PeerGroup("one aligned tower", _ONE_TOWER),
    PeerGroup("supervised: human masks or SAM3, a ceiling", _SUPERVISED),
)
