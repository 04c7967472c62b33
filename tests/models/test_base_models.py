"""The real architectures at base size, from files in their hubs' own formats, over real photos."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from segment_anything import sam_model_registry

from fmbseg import cli

ENCODER = "vit_base_patch14_dinov2"
CLASSES = ("dog", "cat", "road", "sky")
# Random weights are sure of nothing: every threshold lets everything pass.
SETTINGS = (
    "clip.short_side=224",
    "clip.templates=single",
    "masks.points_per_side=2",
    "masks.min_predicted_iou=0",
    "masks.min_stability=0",
    "masks.min_area=0",
    "masks.max_area=1",
    "align.purity=0",
    "align.epochs=1",
    "data.name=folder",
    "data.vocabulary=null",
    "data.root=photos",
    "data.split=all",
    "evaluate.benchmarks={folder: {root: photos, split: all}}",
    "run.threads=1",
    "tracking.enabled=false",
)


@pytest.fixture
def base_weights(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
    torch.save(clip.state_dict(), folder / "ViT-B-16.pt")
    torch.save(sam_model_registry["vit_b"]().state_dict(), folder / "sam_vit_b_01ec64.pth")
    encoder = timm.create_model(ENCODER, num_classes=0).state_dict()
    # Meta's file has what pretraining needed.
    encoder["mask_token"] = torch.zeros(1, 768)
    torch.save(encoder, folder / "dinov2_vitb14_pretrain.pth")
    yield folder
    shutil.rmtree(folder)  # a gigabyte; pytest would keep it


@pytest.fixture
def folder_of_photos(photos: list[Path], tmp_path: Path) -> Path:
    """Three photos at half size with a made-up truth, as a `folder` data set."""
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for path in photos[:3]:
        with Image.open(path) as photo:
            small = photo.convert("RGB").reduce(2)
        small.save(folder / "images" / path.name)
        truth = np.arange(small.width) * len(CLASSES) // small.width
        label = np.broadcast_to(truth.astype(np.uint8), (small.height, small.width))
        Image.fromarray(np.ascontiguousarray(label)).save(folder / "labels" / f"{path.stem}.png")
    names = "\n".join(f"  - {name}" for name in CLASSES)
    (folder / "vocabulary.yaml").write_text(f"name: photos\nclasses:\n{names}\n")
    return folder


@pytest.mark.slow
def test_the_pipeline_runs_with_models_of_base_size_offline(
    base_weights: Path,
    folder_of_photos: Path,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(repository / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMBSEG_WEIGHTS", str(base_weights))
    monkeypatch.setenv("FMBSEG_OWN_WEIGHTS", "1")  # random ones, in the hubs' formats
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody answers: offline
    assert cli._main(["preset", "base"]) == 0
    overrides = [word for setting in SETTINGS for word in ("--set", setting)]
    for stage in ("detect", "query", "masks", "label", "features", "align", "evaluate"):
        start = time.monotonic()
        assert cli._main(["run", stage, *overrides]) == 0, capsys.readouterr().err
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        with capsys.disabled():
            print(f"\n{stage}: {time.monotonic() - start:.0f} s, peak {peak:.1f} GiB", end="")
    masks = pd.read_parquet("data/pseudo/label/masks.parquet")
    stems = {path.stem for path in (folder_of_photos / "images").iterdir()}
    assert set(masks["image_id"]) == stems
    for stem in stems:
        with Image.open(tmp_path / "data/pseudo/label/labels" / f"{stem}.png") as label:
            assert (np.asarray(label) != 255).any(), stem
    result = json.loads(Path("metrics/fmbseg/folder.json").read_text())
    assert result["images"] == len(stems) == 3
    assert 0 <= result["pixel_accuracy"] <= 100
    assert not any("mlflow" in name for name in os.listdir())
