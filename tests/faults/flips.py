"""Damage of files: one byte each, spread evenly over the file, the same ones every time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def flips(path: Path, count: int) -> Iterator[int]:
    """Change one byte of a file in turn, `count` times; what was there is put back.

    Yields:
        The place of the byte, while it is changed.
    """
    content = path.read_bytes()
    for number in range(count):
        place = (2 * number + 1) * len(content) // (2 * count)
        damaged = bytearray(content)
        damaged[place] ^= 1 << (number % 8)
        path.write_bytes(damaged)
        yield place
    path.write_bytes(content)
