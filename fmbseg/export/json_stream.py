"""A JSON list written entry by entry: the masks of a large set need not be in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class JsonList:
    """A JSON file whose last part is a list.

    Args:
        path: the file.
        before: what stands before the list's bracket.
    """

    def __init__(self, path: Path, before: str = "") -> None:
        self._file = path.open("w", encoding="utf-8")
        self._file.write(f"{before}[")
        self._comma = "\n"

    def add(self, entry: Any) -> None:
        """Write one entry, on a line of its own."""
        self._file.write(self._comma + json.dumps(entry, ensure_ascii=False))
        self._comma = ",\n"

    def close(self, after: str = "\n") -> None:
        """End the list; `after` is what stands behind its bracket."""
        self._file.write(f"\n]{after}")
        self._file.close()
