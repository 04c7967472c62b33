"""An export: what every format is handed, and the folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fmbseg.data.images import open_picture, read_image, upright_size
from fmbseg.errors import DataError
from fmbseg.export.regions import Region, regions
from fmbseg.export.source import Classes, Label, LabelledImage, Source
from fmbseg.machine.progress import Progress
from fmbseg.pseudo.tables import rows_by_image
from fmbseg.store.atomic import (
    damage,
    remove_abandoned,
    replace_directory,
    seal,
    temporary_directory,
)
from fmbseg.store.shards import MANIFEST

# Pictures whose rows of the table of masks are read at once.
_CHUNK = 64
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Options:
    """What holds for a whole export.

    Attributes:
        classes: that are written.
        stuff: indices of classes that are no countable things.
        link: pictures are linked to and not copied.
        url: how Label Studio finds a picture: this, and its file name.
        suffixes: file name extensions of the source's pictures.
    """

    classes: Classes
    stuff: frozenset[int] = frozenset()
    link: bool = False
    url: str = ""
    suffixes: frozenset[str] = frozenset()


class Writer(ABC):
    """Writes one format into a folder, picture by picture."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self.options = options
        self.classes = options.classes

    @abstractmethod
    def add(self, image: LabelledImage, label: Label) -> None:
        """Write one picture and its label map [H, W]."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is known at the end alone."""

    def regions(self, image: LabelledImage, label: Label) -> list[Region]:
        """The regions of a picture, see `fmbseg.export.regions`."""
        return regions(label, self.classes, self.options.stuff, image.masks)

    def place_picture(self, image: LabelledImage, folder: str) -> str:
        """Bring a picture into a folder of the export; see `place_picture`."""
        return place_picture(image, self.folder / folder, link=self.options.link)


def export(
    make: Callable[[Path, Options], Writer],
    source: Source,
    out: Path,
    progress: Progress,
    options: Options,
    *,
    own: bool = False,
) -> None:
    """Write a source in one format.

    Args:
        make: a row of `fmbseg.export.FORMATS`.
        source: what is exported.
        out: the folder; it appears when everything is written.
        progress: advanced by pictures.
        options: of the export.
        own: the folder belongs to the command: it is listed in a manifest, and an earlier export
            there is replaced.

    Raises:
        DataError: the folder holds something already, or a picture or label map is missing,
            broken or does not fit; nothing is written then.
    """
    require_free(out, own=own)
    suffixes = frozenset(image.path.suffix.lower() for image in source.images)
    options = replace(options, suffixes=suffixes)
    remove_abandoned(out.absolute().parent)
    with temporary_directory(out.absolute().parent, out.name) as temporary:
        writer = make(temporary, options)
        with progress.task("export", len(source.images)) as task:
            for image in _with_masks(source):
                writer.add(image, source.label(image))
                task.advance()
        writer.finish()
        if own:
            seal(temporary, MANIFEST, {"stage": "export", "key": "export"})
        replace_directory(temporary, out.absolute())


def require_free(out: Path, *, own: bool) -> None:
    """Refuse a folder that holds something; with `own`, but for an export as it was written.

    Raises:
        DataError: it would be lost.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not own:
        raise DataError(f"{out} holds something already: choose an empty folder")
    if not out.is_dir() or (changed := damage(out, MANIFEST)) is not None:
        reason = changed if out.is_dir() else "it is a file"
        raise DataError(
            f"{out} is no export as fmbseg wrote it ({reason}) and stays as it is: remove or "
            "rename it, or choose another --out"
        )


def place_picture(image: LabelledImage, folder: Path, *, link: bool, suffix: str = "") -> str:
    """Copy a picture, or link to it; one that its EXIF turns is written upright.

    Tools differ in whether they heed EXIF; label maps are of the upright picture.

    Args:
        image: the picture.
        folder: where it goes.
        link: a symbolic link in place of a copy, where the picture stays as it is.
        suffix: extension it must have, such as ".png"; "": its own.

    Returns:
        Its file name.
    """
    with open_picture(image.path) as picture:
        size = picture.size
    turned, hidden = upright_size(image.path)
    upright = size == turned and not hidden
    own = image.path.suffix
    kept = upright and suffix in ("", own.lower())
    name = f"{image.image_id}{own if kept or not suffix else suffix}"
    target = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    if not kept:
        read_image(image.path).save(target, quality=_JPEG_QUALITY)
    elif link:
        os.symlink(image.path.resolve(), target)
    else:
        shutil.copyfile(image.path, target)
    return name


def _with_masks(source: Source) -> Iterator[LabelledImage]:
    for start in range(0, len(source.images), _CHUNK):
        part: Sequence[LabelledImage] = source.images[start : start + _CHUNK]
        if source.scores is None:
            yield from part
            continue
        rows = rows_by_image(source.scores, [image.image_id for image in part])
        for image in part:
            yield replace(image, masks=source.masks(rows[image.image_id]))
