"""SAM's automatic masks on photos that people have segmented (BSDS500)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from fmbseg.config import Config
from fmbseg.data.images import read_image
from fmbseg.errors import DataError
from fmbseg.models.quality.figures import Figure, mean_iou
from fmbseg.models.quality.sam import overlaps
from fmbseg.models.sam import SamModel
from fmbseg.progress import Progress

PHOTOS = 20  # the last ones of the folder by name: pretraining may read those before
GRID = 16


def find_photos(root: Path) -> list[Path]:
    """The photos of BSDS500's validation part that are measured.

    Args:
        root: holds `images/val/*.jpg` and `groundTruth/val/*.mat`.

    Raises:
        DataError: there are too few.
    """
    folder = root / "images" / "val"
    photos = sorted(folder.glob("*.jpg"))[-PHOTOS:]
    if len(photos) < PHOTOS:
        raise DataError(f"{folder} holds {len(photos)} photos: give a folder of BSDS500")
    return photos


def photo_figures(
    sam: SamModel, config: Config, photos: list[Path], progress: Progress
) -> list[Figure]:
    """Segmentation covering of SAM's automatic masks, and of a grid of 16 x 16 cells beside it.

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
    covered, gridded = [], []
    with progress.task("sam: BSDS500", len(photos)) as task:
        for photo in photos:
            root = photo.parents[2]
            people = drawn_regions(root / "groundTruth" / "val" / f"{photo.stem}.mat")
            image = np.asarray(read_image(photo))
            encoding = sam.encode(image)
            masks = sam.automatic_masks(encoding, config.masks, config.sam.batch_size).masks
            covered.append(np.mean([covering(masks, regions) for regions in people]))
            cells = grid_cells(*image.shape[:2])
            gridded.append(np.mean([covering(cells, regions) for regions in people]))
            task.advance()
    return [
        mean_iou("sam", "BSDS500: covering by automatic masks", covered),
        mean_iou("sam", f"BSDS500: covering by a {GRID} x {GRID} grid", gridded),
    ]


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


def drawn_regions(path: Path) -> list[npt.NDArray[np.integer]]:
    """The segmentation [H, W] of each person, from one of BSDS500's .mat files."""
    try:
        people = loadmat(path)["groundTruth"][0]
        return [person["Segmentation"][0, 0] for person in people]
    except (OSError, KeyError, ValueError, IndexError, MatReadError) as error:
        raise DataError(f"{path} is no ground truth of BSDS500: give its folder") from error
