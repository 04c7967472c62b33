"""Whether pictures are the project's own drawn scenes."""

from __future__ import annotations

from pathlib import Path

SCENE_OBJECTS = "scenes.parquet"
"""Beside scene data sets: one row an object."""


def is_drawn(place: Path) -> bool:
    """Whether a picture or a folder belongs to a data set of scenes."""
    place = place.absolute()
    return any((folder / SCENE_OBJECTS).is_file() for folder in (place, *place.parents))
