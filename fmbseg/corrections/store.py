"""`data/corrections`: label maps that a person has corrected, and what is known of them.

`labels/<image_id>.png` is a whole label map, as the stage label writes them; `corrections.json` has
the classes that its values mean and, for each picture, where the correction comes from.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fmbseg.corrections.target import Reader, Target
from fmbseg.errors import DataError
from fmbseg.export.pictures import value_png
from fmbseg.machine.progress import Progress
from fmbseg.store.atomic import remove_abandoned, replace_directory, temporary_directory

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
    images: dict[str, Correction]


def read_corrections(folder: Path) -> Corrections | None:
    """The record of a folder of corrections; None: there is none.

    Raises:
        DataError: it is damaged.
    """
    path = folder / RECORD
    try:
        return TypeAdapter(Corrections).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(f"{path} is damaged: restore it, or remove the folder") from error


def import_corrections(
    read: Reader,
    file: Path,
    target: Target,
    out: Path,
    progress: Progress,
    origin: Correction,
) -> dict[str, Correction]:
    """Read a file of corrections and add them to those that are there, all or none.

    Args:
        read: a row of `fmbseg.corrections.READERS`.
        file: what it reads.
        target: the labels that were corrected.
        out: folder of the corrections; a picture's later correction replaces its earlier one.
        progress: advanced by pictures.
        origin: what is known of all of them; `changed` is counted.

    Returns:
        What was imported, by image id.

    Raises:
        DataError: the file is broken, of other pictures or classes, or has no correction; what
            there was stays as it was.
    """
    before = read_corrections(out)
    names = target.classes.names
    if before is not None and before.classes != names:
        raise DataError(
            f"{out} has corrections of other classes: take another --out, or remove it first"
        )
    if before is None and out.exists() and any(out.iterdir()):
        raise DataError(f"{out} holds something already: choose an empty folder")
    place = out.absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(place.parent)
    found: dict[str, Correction] = {}
    with temporary_directory(place.parent, place.name) as temporary:
        labels = temporary / "labels"
        if before is not None:
            shutil.copytree(place / "labels", labels, copy_function=_link)
        labels.mkdir(exist_ok=True)
        with progress.task("import") as task:
            for image, label in read(file, target):
                if image.image_id in found:
                    raise DataError(f"{file} has {image.image_id} twice: leave one of them out")
                changed = int((label != image.label(target.classes)).sum())
                found[image.image_id] = Correction(origin.format, changed, origin.by, origin.at)
                path = labels / f"{image.image_id}.png"
                path.unlink(missing_ok=True)  # the earlier one may be linked
                path.write_bytes(value_png(label, len(names), palette=True))
                task.advance()
        if not found:
            raise DataError(f"{file} corrects no picture: annotate some, and export them")
        earlier = {} if before is None else before.images
        record = asdict(Corrections(names, dict(sorted((earlier | found).items()))))
        text = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
        (temporary / RECORD).write_text(text, encoding="utf-8")
        replace_directory(temporary, place)
    return found


def _link(source: str, target: str) -> str:
    os.link(source, target)
    return target
