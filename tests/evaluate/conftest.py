"""A workspace with a small benchmark in COCO's layout and a head of random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fmbseg.config import Config, parse_config
from fmbseg.models import tiny
from fmbseg.models.build import build_clip, build_encoder, build_sam
from fmbseg.models.weights import WEIGHTS_VARIABLE, weights_record
from fmbseg.store.paths import Paths
from tests.heads import write_head

SIZES = ((96, 64), (64, 80), (73, 101), (96, 64), (64, 64))
MakeConfig = Callable[..., Config]


@pytest.fixture(scope="session")
def scoring_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with random tiny models (used where the package has no trained ones)."""
    folder = tmp_path_factory.mktemp("scoring-weights")
    torch.manual_seed(0)
    for name, module in (
        ("tiny-clip", build_clip(tiny.architecture("clip"))),
        ("tiny-sam", build_sam(tiny.architecture("sam"))),
        ("tiny-encoder", build_encoder(tiny.architecture("encoder"))),
    ):
        state = {key: value.contiguous().clone() for key, value in module.state_dict().items()}
        save_file(state, folder / weights_record(name).file)
    return folder


@pytest.fixture(autouse=True)
def _weights(scoring_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(scoring_weights))


@pytest.fixture
def workspace(tmp_path: Path) -> Paths:
    """Five images with truth in `coco`, split val2017, and a head in data/align."""
    rng = np.random.default_rng(0)
    for index, (width, height) in enumerate(SIZES):
        name = f"{index:012d}"
        image = tmp_path / "coco" / "images" / "val2017" / f"{name}.jpg"
        truth = tmp_path / "coco" / "annotations" / "val2017" / f"{name}.png"
        for path in (image, truth):
            path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(image, quality=95)
        label = np.full((height, width), index, dtype=np.uint8)
        label[:, : width // 2] = 16
        label[: height // 4] = 255
        Image.fromarray(label).save(truth)
    paths = Paths(tmp_path)
    write_head(paths.align, seed=0)
    return paths


@pytest.fixture
def make_config() -> MakeConfig:
    """A config for `workspace`, with sections overridden."""

    def make(**sections: dict[str, Any]) -> Config:
        raw: dict[str, dict[str, Any]] = {
            "run": {"threads": 1, "device": "cpu", "shard_size": 2},
            "clip": {"short_side": 64},
            "features": {"short_side": 64},
            "align": {"head": "linear"},
            "evaluate": {
                "short_side": 64,
                "batch_size": 2,
                "benchmarks": {"coco_stuff": {"root": "coco", "split": "val2017"}},
            },
            "masks": {
                "points_per_side": 3,
                "min_predicted_iou": 0.0,
                "min_stability": 0.0,
                "min_area": 0.0,
                "max_area": 1.0,
            },
        }
        for name, values in sections.items():
            raw[name] = raw.get(name, {}) | values
        return parse_config(raw)

    return make
