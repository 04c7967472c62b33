"""The files of a trained head, and which head they hold; light, without torch."""

from __future__ import annotations

import json
from pathlib import Path

HEAD = "head.safetensors"
RECORD = "checkpoint.json"


def recorded_sha256(folder: Path) -> str | None:
    """The sha256 of the weights in a folder, as the record there says; None: there is no head."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    value = record.get("sha256") if isinstance(record, dict) else None
    return value if isinstance(value, str) else None
