"""A folder of label maps from anywhere: one PNG an image, the pixel's value = class index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fmbseg.data.formats import PREDICTED
from fmbseg.data.images import read_values
from fmbseg.data.labels import Label, as_label, unlabelled
from fmbseg.errors import DataError


def find_label_maps(folder: Path, images: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """The label map of each image, by its id.

    Args:
        folder: holds `<image id>.png`, or `<file stem>.png`, of every image; or so with the ending
            that `fmbseg predict` gives them.
        images: `(image_id, path)`.

    Raises:
        DataError: there is no such folder, an image has no label map, or two share one.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give one with a label PNG for each image")
    found, missing = {}, []
    for image_id, image in images:
        names = dict.fromkeys((image_id, PurePosixPath(image_id).name, image.stem))
        places = [folder / f"{name}{end}" for end in (".png", PREDICTED) for name in names]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            missing.append(places[0])
        else:
            found[image_id] = path
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images have no label map in {folder}, the first is "
            f"{missing[0]}: write one PNG for each image of the split, or set a limit of images"
        )
    # Names without folders may mean two images.
    [(twice, count)] = Counter(found.values()).most_common(1) or [(folder, 0)]
    if count > 1:
        raise DataError(f"{twice} stands for two images: name label maps by the whole image id")
    return found


def read_label_map(path: Path, size: tuple[int, int], classes: int) -> Label:
    """Read a label map: [H, W] class indices, 255 (of more than 255 classes 65535) unlabelled.

    Args:
        path: a PNG of one channel, or with a palette.
        size: (H, W) of its image.
        classes: how many there are.

    Raises:
        DataError: it is broken, of another size than its image, or holds a value that is no class.
    """
    nothing = unlabelled(classes)
    values = read_values(path, nothing)
    if values.shape != size:
        raise DataError(
            f"{path} is {values.shape[1]} x {values.shape[0]} px, its image {size[1]} x {size[0]} "
            "px: save label maps at the image's own size"
        )
    illegal = (values >= classes) & (values != nothing)
    if illegal.any():
        raise DataError(
            f"{path} holds the value {int(values[illegal][0])}: there are the classes 0 to "
            f"{classes - 1}, and {nothing} for unlabelled"
        )
    return as_label(values, classes)
