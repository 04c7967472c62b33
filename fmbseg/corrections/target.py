"""What corrections are of: pictures by name with their sizes, and classes by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg import documents
from fmbseg.data.images import upright_size
from fmbseg.errors import DataError
from fmbseg.export.source import NOTHING, Classes, Label, LabelledImage, Source

# Bytes of what a tool exported: ten times COCO's own instances.
_LARGEST = 4_000_000_000


@dataclass(frozen=True)
class Target:
    """The labels that were corrected.

    Attributes:
        source: pictures, classes and the labels before.
    """

    source: Source

    @property
    def classes(self) -> Classes:
        """Of the label maps."""
        return self.source.classes

    def image(self, name: str, place: Path) -> LabelledImage:
        """The picture of that name: its id, or its file's stem.

        Args:
            name: file name or stem, as another tool has it.
            place: the file that names it, for messages.

        Raises:
            DataError: there is none, or two have that stem.
        """
        name = name.replace("\\", "/").rpartition("/")[2]
        stem = name.rpartition(".")[0]
        for key in (name, stem):
            if key in self._by_id:
                return self._by_id[key]
        found = [each for each in self.source.images if each.path.stem in (name, stem)]
        if len(found) != 1:
            many = f"{len(found)} of" if found else "none of"
            raise DataError(
                f"{place} is of the picture {name!r}, which is {many} the "
                f"{len(self.source.images)} pictures: is it of other pictures?"
            )
        return found[0]

    def class_index(self, name: str, place: Path) -> int:
        """The class of that name; raises DataError where there is none."""
        if name not in self.classes.names:
            raise DataError(
                f"{place} has the class {name!r}, which is none of the {len(self.classes.names)} "
                "classes: rename it there, or add it to the vocabulary"
            )
        return self.classes.names.index(name)

    def empty(self, image: LabelledImage, size: tuple[int, int] | None, place: Path) -> Label:
        """A label map [H, W] before its regions are painted: all background, or unlabelled.

        Args:
            image: the picture.
            size: (H, W) that the other tool has for it; None: it says none.
            place: the file that says so, for messages.

        Raises:
            DataError: the picture is broken, or of another size.
        """
        (width, height), _ = upright_size(image.path)
        if size is not None and size != (height, width):
            raise DataError(
                f"{place} has {image.image_id} with {size[1]} x {size[0]} px, the picture "
                f"{image.path} has {width} x {height}: is it of another picture?"
            )
        background = self.classes.background
        return np.full((height, width), NOTHING if background is None else background, np.int32)

    @cached_property
    def _by_id(self) -> dict[str, LabelledImage]:
        return {image.image_id: image for image in self.source.images}


Reader = Callable[[Path, Target], Iterator[tuple[LabelledImage, Label]]]
"""Gives the pictures that were corrected and their whole label maps [H, W]; raises DataError."""


def paint(label: Label, mask: npt.NDArray[np.bool_], index: int, place: Path) -> None:
    """Paint a region into a label map; raises DataError where it has another size."""
    if mask.shape != label.shape:
        raise DataError(
            f"{place} has a mask of {mask.shape[1]} x {mask.shape[0]} px in a picture of "
            f"{label.shape[1]} x {label.shape[0]}: is it of another picture?"
        )
    label[mask] = index


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises DataError where it is missing or broken."""
    try:
        return documents.read_json(path, DataError, _LARGEST)
    except DataError as error:
        raise DataError(f"{error}: name the file that the tool exported, or export it again") from (
            error
        )
