"""`data/corrections`: label maps that a person has corrected, and what is known of them.

`labels/<image_id>.png` is a whole label map, as the stage label writes them; `corrections.json` has
the classes that its values mean and, for each picture, where the correction comes from.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fmbseg.corrections.target import Reader, Target
from fmbseg.data.corrections import RECORD, Correction, Corrections, read_corrections
from fmbseg.errors import DataError
from fmbseg.export.pictures import value_png
from fmbseg.machine.progress import Progress
from fmbseg.store.atomic import remove_abandoned, replace_directory, temporary_directory


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
                changed = int((label != image.machine_label(target.classes)).sum())
                found[image.image_id] = Correction(origin.format, changed, origin.by, origin.at)
                path = labels / f"{image.image_id}.png"
                path.unlink(missing_ok=True)  # the earlier one may be linked
                path.write_bytes(value_png(label, len(names), palette=True))
                task.advance()
        if not found:
            raise DataError(f"{file} corrects no picture: annotate some, and export them")
        earlier = {} if before is None else before.images
        record = Corrections(names, {**earlier, **found})
        (temporary / RECORD).write_text(record.to_json(), encoding="utf-8")
        replace_directory(temporary, place)
    return found


def _link(source: str, target: str) -> str:
    os.link(source, target)
    return target
