"""Architectures and weights of the three small models; `pretraining` made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
BPE_FILE = FOLDER / "bpe.txt.gz"


def is_tiny(model: str) -> bool:
    """Whether a model is one of the three, by its name."""
    return model.startswith("tiny-")


def architecture(name: str) -> dict[str, Any]:
    """The architecture record `clip`, `sam` or `encoder`, as its `build_...` function takes it."""
    record: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return record
