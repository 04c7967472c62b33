"""Labelling, beside the obvious script of the same libraries.

That script prompts `SamPredictor` with the points of each class in turn, has
`SamAutomaticMaskGenerator` make the masks (which encodes the picture again), and gives CLIP one
window after the other. Both have equal weights, scenes, points and thresholds; of SAM's features
the stock classes get what ours keep, rounded to float16. What must be equal is every mask's COCO
run lengths.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.comparing import Claim, Work

TINY = {"points_per_side": 8, "min_predicted_iou": 0.5, "min_stability": 0.6}
CLASSES = 4  # prompts of an image, of five points each


def scenes(count: int, size: tuple[int, int]) -> list[Any]:
    """Development scenes (width, height) in pixels."""
    from fmbseg.scenes.render import render_scene, scene_seed

    return [render_scene(scene_seed("development", i), size=size).image for i in range(count)]


def script(sam: Any, clip: Any, images: list[Any], points: Any, masks: Any, windows: Any) -> Any:
    """The obvious script: the run lengths of all masks it finds."""
    from PIL import Image
    from segment_anything import SamAutomaticMaskGenerator, SamPredictor

    generator = SamAutomaticMaskGenerator(
        sam.module,
        points_per_side=masks.points_per_side,
        pred_iou_thresh=masks.min_predicted_iou,
        stability_score_thresh=masks.min_stability,
        stability_score_offset=masks.stability_offset,
        box_nms_thresh=masks.max_box_iou,
        output_mode="coco_rle",
    )
    found = []
    for image, asked in zip(images, points, strict=True):
        predictor = SamPredictor(sam.module)
        predictor.set_image(image)
        queried = []
        for prompt in asked:
            three, iou, _ = predictor.predict(prompt, np.ones(len(prompt), dtype=int))
            queried.append(three[iou.argmax()])
        automatic = generator.generate(image)
        pixels = image.shape[0] * image.shape[1]
        sizes = masks.min_area * pixels, masks.max_area * pixels
        if clip is not None:
            clip.encode_image_windows(Image.fromarray(image), windows)
        kept = [each for each in automatic if sizes[0] <= each["area"] <= sizes[1]]
        found.append(([each["segmentation"]["counts"] for each in kept], np.stack(queried)))
    return found


def ours(sam: Any, clip: Any, images: list[Any], points: Any, masks: Any, windows: Any) -> Any:
    """What the stages do with a picture."""
    from PIL import Image

    from fmbseg.pseudo.querying import query_masks
    from fmbseg.pseudo.tables import encode_masks

    found = []
    for image, asked in zip(images, points, strict=True):
        encoding = sam.encode(image)
        queried, _ = query_masks(sam, encoding, asked, 64)
        automatic = sam.automatic_masks(encoding, masks, 64)
        if clip is not None:
            clip.encode_image_windows(Image.fromarray(image), windows)
        found.append((encode_masks(automatic.masks), queried))
    return found


def prepare_tiny(device: str, pictures: int = 4, sampler: str = "grid") -> tuple[Work, Work]:
    """The tiny models on scenes of 160 x 128; the script always asks the whole grid."""
    from fmbseg.config import MasksSection, parse_config
    from fmbseg.models.clip import load_clip
    from fmbseg.models.sam import load_sam
    from fmbseg.presets import preset

    sam, clip = load_sam("tiny-sam", device), load_clip("tiny-clip", device)
    masks, windows = MasksSection(**TINY, sampler=sampler), parse_config(preset("tiny")).clip
    return _sides(sam, clip, scenes(pictures, (160, 128)), masks, windows)


def prepare_base(device: str, points_per_side: int) -> tuple[Work, Work]:
    """SAM ViT-B with random weights, one picture of 1024 x 768; about half of its masks pass."""
    import torch
    from segment_anything import sam_model_registry

    from fmbseg.config import MasksSection
    from fmbseg.models.sam import SamModel

    torch.manual_seed(0)
    module = sam_model_registry["vit_b"]()
    sam = SamModel(module, device)
    (image,) = scenes(1, (1024, 768))
    # Random weights are confident of nothing: the threshold is their own median.
    corner = np.random.default_rng(1).uniform((0, 0), (1024, 768), (32, 1, 2))
    middle = float(np.median(sam.predict_points(sam.encode(image), corner).predicted_iou))
    masks = MasksSection(
        points_per_side=points_per_side,
        min_predicted_iou=max(middle, 1e-6),
        min_stability=0.0,
        stability_offset=0.01,
    )
    return _sides(sam, None, [image], masks, None)


def _sides(sam: Any, clip: Any, images: list[Any], masks: Any, windows: Any) -> tuple[Work, Work]:
    sam.module.image_encoder.register_forward_hook(lambda *call: call[2].half().float())
    rng = np.random.default_rng(0)
    points = [
        rng.uniform((0, 0), image.shape[1::-1], (CLASSES, 5, 2)).astype(np.float32)
        for image in images
    ]
    alone = None if windows is None else windows.model_copy(update={"batch_size": 1})
    return (
        partial(ours, sam, clip, images, points, masks, windows),
        partial(script, sam, clip, images, points, masks, alone),
    )


def same(ours: Any, other: Any) -> str:
    """Run lengths of the automatic masks, pixels of the queried ones."""
    pairs = list(zip(ours, other, strict=True))
    count = sum(max(len(mine), len(theirs)) for (mine, _), (theirs, _) in pairs)
    equal = sum(
        mine == theirs
        for (left, _), (right, _) in pairs
        for mine, theirs in zip(left, right, strict=False)
    )
    turned = sum(int((mine != theirs).sum()) for (_, mine), (_, theirs) in pairs)
    queried = sum(theirs.size for _, (_, theirs) in pairs)
    return f"{equal} of {count} run lengths equal; {turned} of {queried} queried pixels differ"


def found_again(ours: Any, other: Any) -> str:
    """How many of the script's automatic masks are like one of ours (IoU 0.9), and how many not."""
    from pycocotools import mask as coco

    def overlaps(some: Any, others: Any) -> Any:
        sides = [[{"size": [128, 160], "counts": each} for each in part] for part in (some, others)]
        return coco.iou(*sides, [0] * len(others)) if some and others else np.zeros((1, 1))

    pairs = [(mine, theirs) for (mine, _), (theirs, _) in zip(ours, other, strict=True)]
    found = [overlaps(theirs, mine).max(axis=1) >= 0.9 for mine, theirs in pairs]
    theirs, mine = sum(len(each) for _, each in pairs), sum(len(each) for each, _ in pairs)
    return f"{sum(int(each.sum()) for each in found)} of {theirs} masks found among {mine}"


CLAIMS = (
    Claim(
        "labelling-tiny",
        "stage 1's masks and windows, four scenes, tiny models",
        3.0,
        prepare_tiny,
        same,
        rounds=3,
    ),
    Claim(
        "labelling-object-aware",
        "the same with the sampler object-aware, the preset's, which is lossy",
        3.0,
        partial(prepare_tiny, pictures=8, sampler="object-aware"),
        found_again,
        rounds=3,
    ),
    Claim(
        "labelling-vit-b",
        "the masks of SAM ViT-B at 1024 px, 1,024 points",
        2.0,
        partial(prepare_base, points_per_side=32),
        same,
        rounds=3,
    ),
    Claim(
        "labelling-vit-b-64",
        "the same with 64 points, for a quick look",
        2.0,
        partial(prepare_base, points_per_side=8),
        same,
        rounds=1,
    ),
)
