"""What every test gets: quiet, offline, one thread, and no state of the user's."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

# Before anything imports the libraries that read them.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
)

import numpy as np
import pytest
import torch
from PIL import Image

from fmbseg.models import tiny
from fmbseg.models.backbone import Backbone, load_backbone
from fmbseg.models.clip import ClipModel, load_clip
from fmbseg.models.sam import SamModel, load_sam
from fmbseg.models.weights import WEIGHTS_VARIABLE
from fmbseg.store.paths import Paths
from tests import workspace as small
from tests.data.make_samples import SAMPLES
from tests.heads import write_head
from tests.workspace import MakeConfig, write_coco, write_weights

# `pytester` runs a pytest of its own, for the tests of turns.
pytest_plugins = ["tests.rotation.plugin", "pytester"]
REPOSITORY = Path(__file__).resolve().parents[1]
REALDATA = Path(os.environ.get("FMBSEG_REALDATA", REPOSITORY.parent / "shared" / "realdata"))
# Where files in the benchmarks' encodings lie; see tests/data/make_samples.py.
SOURCES = {"own": SAMPLES} | ({"real": REALDATA} if REALDATA.is_dir() else {})


def pytest_report_header() -> str:
    """Which files the benchmarks' decoding is held against."""
    real = "and real files in" if "real" in SOURCES else "no real files in"
    return f"benchmarks: our own files, {real} {REALDATA}"


@pytest.fixture(autouse=True)
def _known_state() -> Iterator[None]:
    """What is tested sets all this for its process: each test begins alike, in any order."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
    logging.getLogger("fmbseg").setLevel(logging.NOTSET)
    with patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session", params=SOURCES.values(), ids=SOURCES)
def samples(request: pytest.FixtureRequest) -> Path:
    """Files in the benchmarks' encodings: our own, and the real ones where they are."""
    folder: Path = request.param
    return folder


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Samples of the real benchmarks, for what only they can show."""
    if "real" not in SOURCES:
        pytest.skip(f"the benchmarks' sample files are not at {REALDATA}")
    return REALDATA


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Photos: real ones where they are, else our own; for tests too slow to do both."""
    return sorted((list(SOURCES.values())[-1] / "photos").iterdir())


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights of the tiny models."""
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder)
    return folder


@pytest.fixture
def random_models(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models have random weights, so that no result depends on what they have learned."""
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(random_weights))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Five pictures and their truth in COCO-Stuff's layout."""
    write_coco(tmp_path / "coco")
    return tmp_path / "coco"


@pytest.fixture
def make_config(coco: Path, random_models: None) -> MakeConfig:
    """A config for `coco`, with sections overridden: make_config(run={"shard_size": 2})."""
    return partial(small.make_config, coco)


@pytest.fixture(scope="session")
def stage_1(tmp_path_factory: pytest.TempPathFactory, random_weights: Path) -> Path:
    """A workspace in which stage 1 has run."""
    root = tmp_path_factory.mktemp("stage-1")
    write_coco(root / "coco")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WEIGHTS_VARIABLE, str(random_weights))
        config = small.make_config(root / "coco")
        for stage in ("detect", "query", "masks", "label"):
            small.run(stage, config, Paths(root))
    return root


@pytest.fixture
def labelled(stage_1: Path, coco: Path, random_models: None) -> Paths:
    """The workspace beside `coco`, with the outs of stage 1."""
    shutil.copytree(stage_1, coco.parent, dirs_exist_ok=True)
    return Paths(coco.parent)


@pytest.fixture
def workspace(coco: Path, make_config: MakeConfig) -> Paths:
    """The workspace beside `coco`, with a head of random weights in data/align."""
    paths = Paths(coco.parent)
    write_head(paths.align, seed=0, align=make_config().align)
    return paths


@pytest.fixture(scope="session")
def for_peers(
    stage_1: Path, tmp_path_factory: pytest.TempPathFactory, random_weights: Path
) -> Path:
    """A workspace with what peers work with."""
    root = Path(shutil.copytree(stage_1, tmp_path_factory.mktemp("peers") / "workspace"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WEIGHTS_VARIABLE, str(random_weights))
        # Little has been learned of random models: what there is should show.
        config = small.make_config(
            root / "coco", talk2dino={"epochs": 3, "batch_images": 2, "learning_rate": 0.05}
        )
        for stage in ("features", "bank", "talk2dino"):
            small.run(stage, config, Paths(root))
    return root


@pytest.fixture
def equipped(workspace: Paths, for_peers: Path) -> Paths:
    """The workspace with a head, and with what peers work with."""
    for name in ("bank", "talk2dino"):
        shutil.copytree(for_peers / "data" / name, workspace.data / name)
    return workspace


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
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)


@pytest.fixture(scope="session")
def clip(random_weights: Path) -> ClipModel:
    """CLIP with random weights."""
    return load_clip("tiny-clip", weights_dir=random_weights)


@pytest.fixture(scope="session")
def sam() -> SamModel:
    """The shipped weights: random ones of this depth give all or nothing as masks."""
    return load_sam("tiny-sam")


@pytest.fixture(scope="session")
def backbone(random_weights: Path) -> Backbone:
    """The encoder with random weights."""
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
