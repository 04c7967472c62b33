"""Random weights of the tiny architectures in files, and loaded through the package's own road."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from fmbseg.models import tiny
from fmbseg.models.backbone import Backbone, load_backbone
from fmbseg.models.build import build_encoder
from fmbseg.models.clip import ClipModel, build_clip, load_clip
from fmbseg.models.sam import SamModel, build_sam, load_sam


def randomised(module: nn.Module, seed: int, scale: float) -> nn.Module:
    """Noise on every parameter: biases and position embeddings start at zero and would hide."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clip, sam and encoder weights, as FMBSEG_WEIGHTS would name it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=()):
        for name, build, seed in (
            ("clip", build_clip, 1),
            ("sam", build_sam, 4),
            ("encoder", build_encoder, 2),
        ):
            torch.manual_seed(seed)
            module = randomised(build(tiny.architecture(name)), seed, 0.05)
            save_file(module.state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def folder(random_weights: Path, tmp_path: Path) -> Path:
    """A copy of the random weights that a test may damage."""
    return Path(shutil.copytree(random_weights, tmp_path / "weights"))


@pytest.fixture
def no_package_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package without its weights, and no folder named."""
    package = tmp_path / "package"
    package.mkdir()
    for path in tiny.FOLDER.glob("*.json"):
        shutil.copy(path, package)
    monkeypatch.setattr(tiny, "FOLDER", package)
    monkeypatch.delenv("FMBSEG_WEIGHTS", raising=False)


@pytest.fixture(scope="session")
def clip(random_weights: Path) -> ClipModel:
    return load_clip("tiny-clip", weights_dir=random_weights)


@pytest.fixture(scope="session")
def sam() -> SamModel:
    """The shipped weights: random ones of this depth give all or nothing as masks."""
    return load_sam("tiny-sam")


@pytest.fixture(scope="session")
def backbone(random_weights: Path) -> Backbone:
    return load_backbone("tiny-encoder", weights_dir=random_weights)


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A 150 x 90 px picture with structure at several scales."""
    rng = np.random.default_rng(3)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)).resize(
                (150, 90), Image.Resampling.BICUBIC
            ),
            dtype=float,
        )
        for rows, columns in ((3, 5), (9, 15), (90, 150))
    ]
    return Image.fromarray((0.5 * layers[0] + 0.35 * layers[1] + 0.15 * layers[2]).astype(np.uint8))
