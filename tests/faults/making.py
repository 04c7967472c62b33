"""What hostile inputs are made by: a file in a copy of a workspace, and a command that reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

#: Writes what is wrong into a copy of a finished workspace; gives the command line.
Make = Callable[[Path], Sequence[str]]
DIGITS = "9" * 5000
PICTURE = "coco/images/val2017/000000000000.jpg"


def written(name: str, content: str | bytes, *command: str) -> Make:
    def make(root: Path) -> Sequence[str]:
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        (root / name).write_bytes(data)
        return command

    return make


def predicting(*more: str, out: str = "out") -> Make:
    return lambda root: ("predict", PICTURE, "--out", out, *more)
