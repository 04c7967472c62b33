"""SAM's automatic masks on photos that people have segmented (BSDS500)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from fmbseg.config import Config
from fmbseg.data.images import read_image
from fmbseg.errors import DataError
from fmbseg.machine.progress import Progress
from fmbseg.models.sam import SamModel
from fmbseg.quality.figures import Figure, mean_iou
from fmbseg.quality.sam import overlaps

PHOTOS = 20  # the last ones of the folder by name: pretraining may read those before
GRID = 16
SUPERPIXELS = 64


def find_photos(root: Path) -> list[Path]:
    """The photos of BSDS500's validation part that are measured: the last 20 by name.

    Names are compared as text. Of a folder with 60 photos these are the 20 that pretraining, which
    may read the first 40, never sees.

    Args:
        root: holds `images/val/*.jpg` and `groundTruth/val/*.mat`.

    Raises:
        DataError: there are fewer than 20, what people have drawn is missing, or scikit-image,
            whose SLIC is compared, is not here.
    """
    _slic()  # known before the first model has done its work
    folder = root / "images" / "val"
    photos = sorted(folder.glob("*.jpg"))[-PHOTOS:]
    if len(photos) < PHOTOS:
        raise DataError(f"{folder} holds {len(photos)} photos: give a folder of BSDS500")
    for photo in photos:
        if not _drawn(photo).is_file():
            raise DataError(f"{_drawn(photo)} is missing: give a folder of BSDS500")
    return photos


def photo_figures(
    sam: SamModel, config: Config, photos: list[Path], progress: Progress
) -> list[Figure]:
    """Segmentation covering of SAM's automatic masks, and beside it what needs no learning.

    That is a grid of 16 x 16 cells, and the superpixels of SLIC with 64 segments asked for.

    Covering (Arbelaez et al., 2011): of every region a person has drawn the best IoU with any
    segment, weighted by the region's area; the mean over people, then over photos. Automatic masks
    may overlap and leave gaps, which the definition allows for.

    Args:
        sam: the model.
        config: thresholds of the automatic masks.
        photos: from `find_photos`.
        progress: counts photos.

    Raises:
        DataError: a photo has no readable ground truth.
    """
    coverings: dict[str, list[float]] = {
        "automatic masks": [],
        f"a {GRID} x {GRID} grid": [],
        f"SLIC, {SUPERPIXELS} segments": [],
    }
    with progress.task("sam: BSDS500", len(photos)) as task:
        for photo in photos:
            people = drawn_regions(_drawn(photo))
            image = np.asarray(read_image(photo))
            encoding = sam.encode(image)
            ways = (
                sam.automatic_masks(encoding, config.masks, config.sam.batch_size).masks,
                grid_cells(*image.shape[:2]),
                superpixels(image),
            )
            for values, masks in zip(coverings.values(), ways, strict=True):
                values.append(float(np.mean([covering(masks, regions) for regions in people])))
            task.advance()
    return [
        mean_iou("sam", f"BSDS500: covering by {way}", values) for way, values in coverings.items()
    ]


def _drawn(photo: Path) -> Path:
    return photo.parents[2] / "groundTruth" / "val" / f"{photo.stem}.mat"


def covering(masks: npt.NDArray[np.bool_], regions: npt.NDArray[np.integer]) -> float:
    """Area-weighted best IoU of the regions of one person, [H, W], with masks [m, H, W]."""
    numbers, sizes = np.unique(regions, return_counts=True)
    best = overlaps(masks, regions[None] == numbers[:, None, None]).max(axis=0, initial=0)
    return float((best * sizes).sum() / regions.size)


def grid_cells(height: int, width: int) -> npt.NDArray[np.bool_]:
    """The cells of a grid of `GRID` x `GRID` as masks [256, H, W]."""
    rows, columns = (np.arange(side) * GRID // side for side in (height, width))
    cell = rows[:, None] * GRID + columns[None]
    return np.asarray(cell[None] == np.arange(GRID**2)[:, None, None])


def superpixels(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """SLIC's superpixels of an image [H, W, 3] as masks [n, H, W]; n is about `SUPERPIXELS`.

    Raises:
        DataError: scikit-image is not here.
    """
    segments = _slic()(image, n_segments=SUPERPIXELS, start_label=0)
    return np.asarray(segments[None] == np.arange(segments.max() + 1)[:, None, None])


def _slic() -> Any:
    try:
        from skimage.segmentation import slic
    except ModuleNotFoundError as error:
        raise DataError(
            "the table on BSDS500 needs scikit-image: pip install 'fmbseg[scenes]'"
        ) from error
    return slic


def drawn_regions(path: Path) -> list[npt.NDArray[np.integer]]:
    """The segmentation [H, W] of each person, from one of BSDS500's .mat files."""
    try:
        people = loadmat(path)["groundTruth"][0]
        return [person["Segmentation"][0, 0] for person in people]
    except (OSError, KeyError, ValueError, IndexError, MatReadError) as error:
        raise DataError(f"{path} is no ground truth of BSDS500: give its folder") from error
