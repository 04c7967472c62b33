"""The files of a trained head, which head they hold and whose labels it learned; without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmbseg.config import HeadName

HEAD = "head.safetensors"
RECORD = "checkpoint.json"
SUPERVISION = "supervision"
"""Where a checkpoint's training, and a result, say what `Supervision` holds."""

STAGE_1 = "stage 1"
ELSEWHERE = "data.labels"
GROUND_TRUTH = "ground truth"


@dataclass(frozen=True)
class Supervision:
    """Whose labels a head was trained on.

    Attributes:
        labels: `STAGE_1`, `ELSEWHERE` (of any origin) or `GROUND_TRUTH`.
        corrected_images: label maps among them that a person has corrected.
        corrected_pixels: whose label the person changed.
    """

    labels: str
    corrected_images: int = 0
    corrected_pixels: int = 0

    @property
    def annotation_free(self) -> bool:
        """Whether no person has labelled anything of it, as far as that is known."""
        return self.labels == STAGE_1 and not self.corrected_images

    @property
    def words(self) -> str:
        """Of what it was trained on, in a few words."""
        if self.annotation_free:
            return "no annotation"
        corrected = f"{self.corrected_images} pictures corrected by people"
        if self.labels == STAGE_1:
            return corrected
        origin = "labels of data.labels" if self.labels == ELSEWHERE else self.labels
        return f"{origin}, {corrected}" if self.corrected_images else origin


@dataclass(frozen=True)
class HeadConfig:
    """What decides a head's form.

    Attributes:
        kind: name in `fmbseg.align.heads.HEADS`.
        in_dim: C, channels of the encoder's features.
        out_dim: D, dimension of the text space.
        heads: attention heads of the transformer block; the other kinds have none.
        projections: how many, one a vocabulary.
    """

    kind: HeadName
    in_dim: int
    out_dim: int
    heads: int
    projections: int = 1


def recorded_sha256(folder: Path) -> str | None:
    """The sha256 of the weights in a folder, as the record there says; None: there is no head."""
    value = _read(folder).get("sha256")
    return value if isinstance(value, str) else None


def recorded_supervision(folder: Path) -> Supervision | None:
    """Whose labels the head in a folder learned; None: there is none, or it does not say."""
    training = _read(folder).get("training")
    return supervision_of(training) if isinstance(training, dict) else None


def supervision_of(record: Mapping[str, Any]) -> Supervision | None:
    """What a checkpoint's training, or a result, says of it; None: nothing."""
    try:
        return Supervision(**record[SUPERVISION])
    except (KeyError, TypeError):
        return None


def _read(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
