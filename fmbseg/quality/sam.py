"""SAM: masks from points inside an instance, from its box, and automatic masks of whole scenes."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion

from fmbseg.config import Config
from fmbseg.machine.progress import Progress
from fmbseg.models.mask_model import PromptMasks
from fmbseg.models.sam import SamModel
from fmbseg.pseudo.querying import choose_masks
from fmbseg.quality.figures import SEEDS, Figure, held_out_scene, mean_iou, percent

LEAST_PIXELS = 24  # instances of which less is visible are left out
# Number of points, and whether they are kept off the outline.
POINTS = {"1 interior point": (1, True), "1 point": (1, False), "5 points": (5, False)}
FOUND = 0.5  # IoU from which an automatic mask has found an instance


def sam_figures(sam: SamModel, config: Config, scenes: int, progress: Progress) -> list[Figure]:
    """IoU of prompts' masks with every instance, backgrounds included; recall of automatic masks.

    A prompt is one or five different pixels drawn at random among the visible ones of an instance,
    or the tight box around all visible ones. A pixel on the outline is as much its neighbour's, so
    one prompt is drawn from the interior alone.
    """
    rng = np.random.default_rng(SEEDS["instances"])
    ious: dict[str, list[float]] = defaultdict(list)
    found: list[bool] = []
    automatic = 0
    with progress.task("sam: scenes", scenes) as task:
        for index in range(scenes):
            scene = held_out_scene("instances", index)
            truth = instance_masks(scene.instance)
            encoding = sam.encode(scene.image)
            for prompt, (count, inside) in POINTS.items():
                drawn_from = map(interior, truth) if inside else truth
                points = np.stack([random_points(rng, mask, count) for mask in drawn_from])
                masks = sam.predict_points(encoding, points, config.sam.batch_size)
                ious[f"{prompt}: most confident of 3 masks"] += most_confident(masks, truth)
                ious[f"{prompt}: best of 3 masks"] += [
                    overlaps(three, mask[None]).max()
                    for three, mask in zip(masks.masks, truth, strict=True)
                ]
            masks = sam.predict_boxes(encoding, tight_boxes(truth), config.sam.batch_size)
            ious["box: most confident of 3 masks"] += most_confident(masks, truth)
            whole = sam.automatic_masks(encoding, config.masks, config.sam.batch_size).masks
            found += (overlaps(whole, truth).max(axis=0, initial=0) >= FOUND).tolist()
            automatic += len(whole)
            task.advance()
    return [
        *(mean_iou("sam", name, values) for name, values in ious.items()),
        percent("sam", f"automatic masks: instances found at IoU {FOUND}", found),
        Figure("sam", "automatic masks a scene", round(automatic / scenes, 2), "", scenes),
    ]


def instance_masks(instance: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Visible masks [n, H, W] of the instances with at least `LEAST_PIXELS`."""
    numbers, sizes = np.unique(instance, return_counts=True)
    return np.asarray(instance[None] == numbers[sizes >= LEAST_PIXELS][:, None, None])


def interior(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels of a mask [H, W] whose eight neighbours belong to it; all of it where there are none.

    What is outside of the picture counts as the mask's.
    """
    inner = binary_erosion(mask, np.ones((3, 3)), border_value=1)
    return np.asarray(inner if inner.any() else mask)


def random_points(
    rng: np.random.Generator, mask: npt.NDArray[np.bool_], count: int
) -> npt.NDArray[np.float64]:
    """Centres (x, y) [count, 2] of different pixels of a mask."""
    rows, columns = np.nonzero(mask)
    chosen = rng.choice(len(rows), count, replace=False)
    return np.stack([columns[chosen], rows[chosen]], axis=1).astype(np.float64) + 0.5


def tight_boxes(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Boxes [n, 4] (x0, y0, x1, y1) around masks [n, H, W], none of them empty, in pixels."""
    places = [np.argwhere(mask) for mask in masks]
    return np.array([[*yx.min(axis=0)[::-1], *yx.max(axis=0)[::-1] + 1.0] for yx in places])


def most_confident(masks: PromptMasks, truth: npt.NDArray[np.bool_]) -> list[float]:
    """Each prompt's IoU [n], of the mask with the highest predicted IoU, with truth [n, H, W]."""
    chosen, _ = choose_masks(masks)
    return [
        float(overlaps(mask[None], whole[None])[0, 0])
        for mask, whole in zip(chosen, truth, strict=True)
    ]


def overlaps(
    masks: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """IoU [m, n] of masks [m, H, W] with others [n, H, W]; 0 where both are empty."""
    pixels = others.shape[1] * others.shape[2]
    first = masks.reshape(len(masks), pixels).astype(np.float32)
    second = others.reshape(len(others), pixels).astype(np.float32)
    both = first @ second.T  # exact: counts of pixels stay far below 2^24
    either = first.sum(axis=1)[:, None] + second.sum(axis=1)[None] - both
    return np.asarray(both / np.maximum(either, 1), dtype=np.float64)
