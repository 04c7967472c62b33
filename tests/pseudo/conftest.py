"""Tiny models with random weights, small images in COCO's layout, and a config that fits them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn

from fmbseg.config import Config, parse_config
from fmbseg.models import tiny
from fmbseg.models.build import build_clip, build_sam
from fmbseg.models.weights import WEIGHTS_VARIABLE, weights_record

# Odd sizes on purpose: neither a multiple of the patch nor of the map's grid.
SIZES = ((96, 64), (64, 80), (73, 101), (130, 70), (64, 64), (151, 90))


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with random tiny models (used where the package has no trained ones)."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name, module in (
        ("tiny-clip", build_clip(tiny.architecture("clip"))),
        ("tiny-sam", build_sam(tiny.architecture("sam"))),
    ):
        state = {key: value.contiguous().clone() for key, value in module.state_dict().items()}
        save_file(state, folder / weights_record(name).file)
    return folder


@pytest.fixture(autouse=True)
def _weights(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(random_weights))


def draw_image(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture of coloured shapes on noise."""
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


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six small images in COCO-Stuff's layout, each with an annotation."""
    root = tmp_path / "coco"
    for seed, size in enumerate(SIZES):
        image = root / "images" / "train2017" / f"{seed:012d}.jpg"
        label = root / "annotations" / "train2017" / f"{seed:012d}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        draw_image(seed, size).save(image, quality=95)
        Image.fromarray(np.full(size[::-1], seed, dtype=np.uint8)).save(label)
    return root


MakeConfig = Callable[..., Config]


@pytest.fixture
def make_config(dataset: Path) -> MakeConfig:
    """A config for `dataset`, with sections overridden: make_config(run={"shard_size": 2})."""

    def make(**sections: dict[str, Any]) -> Config:
        raw: dict[str, dict[str, Any]] = {
            "run": {"threads": 1, "device": "cpu", "shard_size": 2},
            "data": {"name": "coco_stuff", "root": str(dataset), "split": "train2017"},
            # Random weights: no mask is confident, so nothing may be filtered by confidence.
            "masks": {
                "points_per_side": 4,
                "min_predicted_iou": 0.0,
                "min_stability": 0.0,
                "max_box_iou": 0.9,
                "min_area": 0.0,
                "max_area": 1.0,
            },
        }
        for name, values in sections.items():
            raw[name] = raw.get(name, {}) | values
        return parse_config(raw)

    return make


CountEncodings = Callable[[], AbstractContextManager[Counter[str]]]


@pytest.fixture
def count_encodings() -> CountEncodings:
    """Counts images that go into CLIP's and SAM's image towers while the block runs."""
    sides = {
        tiny.architecture("clip")["vision_cfg"]["image_size"]: "clip",
        tiny.architecture("sam")["image_encoder"]["img_size"]: "sam",
    }
    assert len(sides) == 2

    @contextmanager
    def count() -> Iterator[Counter[str]]:
        counts: Counter[str] = Counter()

        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
            # The patch embedding is what both towers begin with, and nothing else is like it.
            if isinstance(module, nn.Conv2d) and module.in_channels == 3:
                counts[sides[inputs[0].shape[-1]]] += len(inputs[0])

        handle = nn.modules.module.register_module_forward_hook(hook)
        try:
            yield counts
        finally:
            handle.remove()

    return count
