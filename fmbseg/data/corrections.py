"""Folders of label maps that a person has corrected: `labels/<image_id>.png`, `corrections.json`.

`data/corrections` is one; where they have been merged over the machine's labels, the record of what
was merged lies beside those labels under the same name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fmbseg.data.label_maps import read_label_map
from fmbseg.data.labels import Label
from fmbseg.errors import DataError

RECORD = "corrections.json"


@dataclass(frozen=True)
class Correction:
    """Where one picture's correction comes from.

    Attributes:
        format: of the import.
        changed: pixels whose label differs from the machine's.
        by: who corrected it, if that was given.
        at: when, if that was given.
    """

    format: str
    changed: int
    by: str | None = None
    at: str | None = None


@dataclass(frozen=True)
class Corrections:
    """All corrections of a folder.

    Attributes:
        classes: names in index order.
        images: by image id.
    """

    classes: tuple[str, ...]
    images: Mapping[str, Correction]

    @property
    def changed(self) -> int:
        """Pixels whose label a person has changed."""
        return sum(correction.changed for correction in self.images.values())

    def to_json(self) -> str:
        """The content of its file."""
        record = asdict(self) | {"images": {k: asdict(v) for k, v in sorted(self.images.items())}}
        return json.dumps(record, ensure_ascii=False, indent=1) + "\n"


def read_corrections(folder: Path) -> Corrections | None:
    """The record of a folder of corrections; None: there is none.

    Raises:
        DataError: it is damaged.
    """
    path = folder / RECORD
    try:
        return TypeAdapter(Corrections).validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise DataError(f"{path} is damaged: restore it, or remove the folder") from error


def correction_file(folder: Path, image_id: str) -> Path:
    """The label map of a picture that the record names; raises DataError where it is missing."""
    path = folder / "labels" / f"{image_id}.png"
    if not path.is_file():
        raise DataError(
            f"{path} is missing: bring it back (`dvc checkout`), or import its corrections again"
        )
    return path


def read_correction(folder: Path, image_id: str, size: tuple[int, int], classes: int) -> Label:
    """A corrected label map [H, W], see `read_label_map`, which says what is raised.

    Args:
        folder: of the corrections.
        image_id: a picture that the record names.
        size: (H, W) of it.
        classes: how many there are.
    """
    return read_label_map(correction_file(folder, image_id), size, classes)
