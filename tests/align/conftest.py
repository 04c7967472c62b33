"""Random tiny models, small images in COCO's layout, and a workspace in which stage 1 has run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fmbseg.config import Config, parse_config
from fmbseg.machine.progress import silent_progress
from fmbseg.models import tiny
from fmbseg.models.build import build_encoder
from fmbseg.models.clip import build_clip
from fmbseg.models.sam import build_sam
from fmbseg.models.weights import WEIGHTS_VARIABLE, weights_record
from fmbseg.pseudo import stages as pseudo_stages
from fmbseg.store.paths import Paths

# Two of one size, so that they share batches; the rest odd.
SIZES = ((96, 64), (96, 64), (64, 81), (73, 101), (64, 64))
MakeConfig = Callable[..., Config]


@pytest.fixture(scope="session")
def align_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with random tiny models (used where the package has no trained ones)."""
    folder = tmp_path_factory.mktemp("align-weights")
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
def _weights(align_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(align_weights))


def make_config(**sections: dict[str, Any]) -> Config:
    """A config for the workspace, with sections overridden."""
    raw: dict[str, dict[str, Any]] = {
        "run": {"threads": 1, "device": "cpu", "shard_size": 2},
        "data": {"name": "coco_stuff", "root": "coco", "split": "train2017"},
        "clip": {"short_side": 64},
        "features": {"short_side": 64, "batch_size": 4},
        # Random weights: no mask is confident, so nothing may be filtered by confidence.
        "masks": {
            "points_per_side": 3,
            "min_predicted_iou": 0.0,
            "min_stability": 0.0,
            "min_area": 0.0,
            "max_area": 1.0,
        },
        "align": {"epochs": 3, "batch_images": 2, "purity": 0.3},
    }
    for name, values in sections.items():
        raw[name] = raw.get(name, {}) | values
    return parse_config(raw)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, align_weights: Path) -> Iterator[Path]:
    """A workspace with five images, their truth, and the outs of stage 1. Copy it to change it."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    for index, (width, height) in enumerate(SIZES):
        image = root / "coco" / "images" / "train2017" / f"{index:012d}.jpg"
        truth = root / "coco" / "annotations" / "train2017" / f"{index:012d}.png"
        for path in (image, truth):
            path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(image, quality=95)
        label = np.full((height, width), index, dtype=np.uint8)
        label[:, : width // 2] = 30
        label[: height // 4] = 255
        Image.fromarray(label).save(truth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WEIGHTS_VARIABLE, str(align_weights))
        for stage in ("detect", "query", "masks", "label"):
            getattr(pseudo_stages, stage)(make_config(), Paths(root), silent_progress())
    yield root


@pytest.fixture
def workspace(labelled: Path, tmp_path: Path) -> Paths:
    """A copy of `labelled`."""
    root = tmp_path / "workspace"
    shutil.copytree(labelled, root)
    return Paths(root)


@pytest.fixture
def config() -> MakeConfig:
    """See `make_config`."""
    return make_config
