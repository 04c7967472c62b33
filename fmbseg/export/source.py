"""What is exported: label maps with their pictures and classes, wherever they come from."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.data.images import naming_damage, upright_size
from fmbseg.data.vocabulary.grouping import Grouping
from fmbseg.errors import DataError
from fmbseg.pseudo.packs import label_source

if TYPE_CHECKING:  # it brings torch
    from fmbseg.data.vocabulary import Vocabulary

NOTHING = -1
"""Value of an unlabelled pixel in the label maps of this room, whatever the file's depth."""

BACKGROUND = "background"
"""What formats that have a background call it."""

Label = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Classes:
    """The classes of a set of label maps, in index order.

    Attributes:
        names: one a class.
        background: index of the class that means "none of the others"; None: there is none.
    """

    names: tuple[str, ...]
    background: int | None = None

    @classmethod
    def of(cls, names: Sequence[str], background: int | None = None) -> Classes:
        """Classes of which one named "background" is the background, unless another is."""
        if background is None and BACKGROUND in names:
            background = names.index(BACKGROUND)
        return cls(tuple(names), background)

    @property
    def objects(self) -> tuple[int, ...]:
        """Indices of all classes but the background."""
        return tuple(index for index in range(len(self.names)) if index != self.background)

    @property
    def deep(self) -> bool:
        """Whether a label map needs 16 bits: 255 (of 16 bits 65535) itself means unlabelled."""
        return len(self.names) > 255


@dataclass(frozen=True)
class LabelledImage:
    """One picture and its label map; files are read when asked for.

    Attributes:
        image_id: unique in the source; names the files of an export.
        path: the picture.
        label_path: its label map; it may be packed with others (`fmbseg.pseudo.packs`).
        machine_path: the one that a machine made, where a person's is merged over it; None: the
            same.
        masks: rows of stage 1's table of masks (see `MASKS_SCHEMA`); empty where there is none.
    """

    image_id: str
    path: Path
    label_path: Path
    masks: Sequence[dict[str, Any]] = field(default=(), compare=False)
    machine_path: Path | None = field(default=None, compare=False)

    def label(self, classes: Classes) -> Label:
        """The label map [H, W] int32: class indices, `NOTHING` where there is no label.

        Raises:
            DataError: picture or label map is missing or broken, they differ in size, or a value
                is no class.
        """
        label = read_label(self.label_path, classes)
        (width, height), _ = upright_size(self.path)
        if label.shape != (height, width):
            raise DataError(
                f"{self.label_path} is {label.shape[1]} x {label.shape[0]} px, its picture "
                f"{self.path} {width} x {height} px: is it of another picture?"
            )
        return label

    def machine_label(self, classes: Classes) -> Label:
        """The label map that a machine made; raises DataError as `label`."""
        if self.machine_path is None:
            return self.label(classes)
        return replace(self, label_path=self.machine_path, machine_path=None).label(classes)


@dataclass(frozen=True)
class Source:
    """Labelled pictures.

    Attributes:
        classes: of their label maps.
        images: in the order in which they are exported.
        scores: table of masks with the similarities of regions; None: regions have no score.
        words: name of the vocabulary whose masks of that table count; None: it has one alone.
        vocabulary: that the labels were made with; None: it is not known.
        grouping: of the classes, whose groups are written in their place; None: as they are.
    """

    classes: Classes
    images: tuple[LabelledImage, ...]
    scores: Path | None = None
    words: str | None = None
    vocabulary: Vocabulary | None = field(default=None, compare=False)
    grouping: Grouping | None = None

    @property
    def written(self) -> Classes:
        """The classes that are written."""
        grouping = self.grouping
        if grouping is None:
            return self.classes
        return Classes(grouping.names, grouping.group(self.classes.background))

    def label(self, image: LabelledImage) -> Label:
        """The label map of an image in the classes that are written, see `LabelledImage.label`."""
        label = image.label(self.classes)
        if self.grouping is None:
            return label
        # `NOTHING` is the last place.
        table = np.append(self.grouping.table(NOTHING), NOTHING).astype(np.int32)
        grouped: Label = table[label]
        return grouped

    def masks(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of the table of masks that count, in the classes that are written."""
        own = [row for row in rows if self.words in (None, row["vocabulary"])]
        if (grouping := self.grouping) is None:
            return own
        return [row | {"class_index": grouping.group(row["class_index"])} for row in own]


def read_label(path: Path, classes: Classes) -> Label:
    """Read a label map: an indexed or grey PNG of 8 or 16 bits, 255 or 65535 unlabelled.

    Returns:
        [H, W] int32: class indices, `NOTHING` where there is no label.

    Raises:
        DataError: the file is missing or broken, has colours, or a value that is no class.
    """
    source = label_source(path)
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    with naming_damage(path), Image.open(stream) as image:
        values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise DataError(f"{path} is no label map: expected one channel of class indices")
    label = values.astype(np.int32)
    label[label == (65535 if classes.deep else 255)] = NOTHING
    wrong = (label >= len(classes.names)) | (label < NOTHING)
    if wrong.any():
        raise DataError(
            f"{path} holds the value {int(label[wrong][0])}, but there are {len(classes.names)} "
            "classes: name its own vocabulary"
        )
    return label
