"""A workspace small enough for every stage: five pictures in COCO's layout, and a config for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn

from fmbseg.config import Config, parse_config
from fmbseg.machine.progress import silent_progress
from fmbseg.models import tiny
from fmbseg.models.build import build_clip, build_encoder, build_sam
from fmbseg.pipeline.run import open_stage, run_stage
from fmbseg.stage.stage import Stage
from fmbseg.stage.tracker import Tracker
from fmbseg.store.paths import Paths
from fmbseg.store.shards import StageReport

SPLIT = "val2017"
# Two of one size, so that they share batches; the others divide by neither patch nor cell.
SIZES = ((96, 64), (96, 64), (64, 81), (73, 101), (64, 64))
MakeConfig = Callable[..., Config]


def randomised(module: nn.Module, seed: int, scale: float) -> nn.Module:
    """Noise on every parameter: biases and position embeddings start at zero and would hide."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module


def write_weights(folder: Path, seed: int = 0) -> None:
    """Random weights of the tiny models, in a folder as FMBSEG_WEIGHTS would name it."""
    with torch.random.fork_rng(devices=()):
        for name, build in (("clip", build_clip), ("sam", build_sam), ("encoder", build_encoder)):
            torch.manual_seed(seed)
            module = randomised(build(tiny.architecture(name)), seed, 0.05)
            save_file(module.state_dict(), folder / f"{name}.safetensors")


def draw_picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Coloured shapes on a soft ground; `size` is width and height, in pixels."""
    rng = np.random.default_rng(seed)
    width, height = size
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y = int(rng.integers(0, width - 20)), int(rng.integers(0, height - 20))
        side = int(rng.integers(12, 40))
        colour = tuple(int(part) for part in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + side, y + side), fill=colour)
    return image


def write_coco(root: Path) -> None:
    """Pictures and truth in COCO-Stuff's layout.

    Truth is 255 in the upper quarter, 16 in the left half, and elsewhere the picture's own number.
    """
    for folder in ("images", "annotations"):
        (root / folder / SPLIT).mkdir(parents=True)
    for index, (width, height) in enumerate(SIZES):
        picture = draw_picture(index, (width, height))
        picture.save(root / "images" / SPLIT / f"{index:012d}.jpg", quality=95)
        label = np.full((height, width), index, dtype=np.uint8)
        label[:, : width // 2] = 16
        label[: height // 4] = 255
        Image.fromarray(label).save(root / "annotations" / SPLIT / f"{index:012d}.png")


def make_config(root: Path, **sections: dict[str, Any]) -> Config:
    """A config that trains and scores on the pictures of `write_coco`, with sections overridden."""
    raw: dict[str, dict[str, Any]] = {
        "run": {"threads": 1, "device": "cpu", "shard_size": 2},
        "data": {"name": "coco_stuff", "root": str(root), "split": SPLIT},
        "clip": {"short_side": 64},
        "features": {"short_side": 64, "batch_size": 4},
        # Random weights: no mask is confident, so nothing may be filtered by confidence.
        "masks": {
            "points_per_side": 3,
            "min_predicted_iou": 0.0,
            "min_stability": 0.0,
            "max_box_iou": 0.9,
            "min_area": 0.0,
            "max_area": 1.0,
        },
        "align": {"epochs": 3, "batch_images": 2, "purity": 0.3},
        "evaluate": {
            "short_side": 64,
            "batch_size": 2,
            "benchmarks": {"coco_stuff": {"root": str(root), "split": SPLIT}},
        },
    }
    for name, values in sections.items():
        raw[name] = raw.get(name, {}) | values
    return parse_config(raw)


def run(name: str, config: Config, paths: Paths, tracker: Tracker | None = None) -> StageReport:
    """Run a stage."""
    return run_stage(open_stage(name, config, paths, silent_progress(), tracker))


def opened(name: str, config: Config, paths: Paths) -> Stage:
    """A stage that has not run, to be asked for its key and whether its result is there."""
    return open_stage(name, config, paths, silent_progress())
