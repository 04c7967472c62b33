"""Corrections as a folder of label PNGs, named as the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fmbseg.corrections.target import Target
from fmbseg.errors import DataError
from fmbseg.export.source import Label, LabelledImage


def read_label_maps(path: Path, target: Target) -> Iterator[tuple[LabelledImage, Label]]:
    """See `Reader`. Values are class indices, 255 (of more than 255 classes 65535) no label."""
    files = sorted(path.glob("*.png")) if path.is_dir() else []
    if not files:
        raise DataError(f"{path} is no folder of label maps: name one with PNG files")
    for file in files:
        image = target.image(file.name, path)
        yield image, replace(image, label_path=file).label(target.classes)
