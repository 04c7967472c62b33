"""`labelled.json`: which pictures and classes the labels of a folder are of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fmbseg.errors import DataError

LABELLED = "labelled.json"
VOCABULARY = "vocabulary.yaml"


@dataclass(frozen=True)
class LabelledFile:
    """One picture.

    Attributes:
        image_id: names its label map.
        file: path relative to the folder.
        width: pixels when upright.
        height: pixels when upright.
    """

    image_id: str
    file: str
    width: int
    height: int


@dataclass(frozen=True)
class Labelled:
    """A folder of pictures that has been labelled.

    Attributes:
        folder: of the pictures, absolute.
        classes: names in index order.
        background: index of the class that means "none of the others", or None.
        images: the pictures that have a label map.
        skipped: pictures that could not be read (path relative to the folder), and why.
    """

    folder: str
    classes: tuple[str, ...]
    background: int | None
    images: tuple[LabelledFile, ...]
    skipped: dict[str, str]

    def to_json(self) -> str:
        """The content of its file."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"


def read_labelled(folder: Path) -> Labelled:
    """What a labelled folder says of itself.

    Raises:
        DataError: its record is missing or damaged.
    """
    path = folder / LABELLED
    try:
        return TypeAdapter(Labelled).validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: label the folder again") from error
    except ValidationError as error:
        raise DataError(f"{path} is damaged: label the folder again") from error
