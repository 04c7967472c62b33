"""Checkpoints of the published sizes that are cut off, renamed or of another architecture."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from torch import Tensor, nn

from fmbseg import cli
from fmbseg.errors import WeightsError
from fmbseg.models.backbone import load_backbone
from fmbseg.models.build import build_clip, build_encoder
from fmbseg.models.clip import load_clip
from fmbseg.models.records import weights_record
from fmbseg.models.sam import load_sam


def _clip(name: str) -> nn.Module:
    return build_clip(open_clip.get_model_config(name))


def _dinov2(size: str) -> nn.Module:
    architecture = f"vit_{size}_patch14_dinov2"
    module = build_encoder({"architecture": architecture, "model_args": {"num_classes": 0}})
    # Meta's file has what pretraining needed.
    module.mask_token = nn.Parameter(torch.zeros(1, module.num_features))
    return module


@dataclass(frozen=True)
class Published:
    """A model, and one with tensors of other names or shapes that its file could be mistaken for.

    Attributes:
        load: `load_clip`, `load_sam` or `load_backbone`.
        build: its module.
        other: the module of another model of the same library.
        misfit: what is said of the other's file.
    """

    load: Callable[..., object]
    build: Callable[[], nn.Module]
    other: Callable[[], nn.Module]
    misfit: str


PUBLISHED = {
    "clip-vit-b-16": Published(
        load_clip,
        lambda: _clip("ViT-B-16"),
        lambda: _clip("ViT-L-14"),
        "unknown visual.transformer.resblocks.12.",
    ),
    "open_clip/ViT-B-32/laion2b_s34b_b79k": Published(
        load_clip,
        lambda: _clip("ViT-B-32"),
        lambda: _clip("ViT-B-16"),
        "visual.positional_embedding is (197, 768) instead of (50, 768)",
    ),
    "sam-vit-b": Published(
        load_sam,
        sam_model_registry["vit_b"],
        sam_model_registry["vit_h"],
        "unknown image_encoder.blocks.12.",
    ),
    "dinov2-vit-b-14": Published(
        load_backbone,
        lambda: _dinov2("base"),
        lambda: _dinov2("large"),
        "blocks.12.",
    ),
}


def _state(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """A state dict of the module's names and shapes; all zeros, which a pickle holds as one."""
    with torch.device("meta"):
        module = build()
    zero = torch.zeros((), dtype=torch.float16)
    return {key: zero.expand(value.shape) for key, value in module.state_dict().items()}


def _write(state: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_is_taken_whole_and_in_its_own_place_only(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FMBSEG_OWN_WEIGHTS", raising=False)
    model = PUBLISHED[name]
    path = tmp_path / weights_record(name).file

    def refused() -> str:
        with pytest.raises(WeightsError) as caught:
            model.load(name, weights_dir=tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    good = _state(model.build)
    _write(_state(model.other), path)
    message = refused()
    assert message.startswith(f"{path} does not fit {name} (")
    assert model.misfit in message
    # As a trainer in parallel names its tensors.
    _write({f"module.{key}": value for key, value in good.items()}, path)
    assert "does not fit" in refused()
    # As a trainer keeps it; in the place of safetensors it is a renamed file as well.
    torch.save({"epoch": 3, "state_dict": good}, path)
    renamed = path.suffix == ".safetensors"
    assert f"{path} is {'cut off, damaged' if renamed else 'not a state dict'}" in refused()
    _write(good, path)
    if weights_record(name).sha256 is not None:
        assert f"{path} is not the published {path.name} (sha256 " in refused()
        monkeypatch.setenv("FMBSEG_OWN_WEIGHTS", "1")
    model.load(name, weights_dir=tmp_path)
    os.truncate(path, path.stat().st_size - 100)
    assert f"{path} is cut off, damaged" in refused()
    path.unlink()


@pytest.mark.slow
def test_a_commands_refusal_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMBSEG_WEIGHTS", str(tmp_path))
    path = tmp_path / weights_record("sam-vit-b").file
    command = ["models", "evaluate", "--set", "sam.model=sam-vit-b"]
    torch.save(_state(sam_model_registry["vit_b"]), path)
    os.truncate(path, path.stat().st_size // 2)
    assert cli._main(command) == 2
    assert capsys.readouterr().err == (
        f"fmbseg: {path} is cut off, damaged or holds more than tensors: get it again\n"
    )
    torch.save(_state(sam_model_registry["vit_h"]), path)
    assert cli._main(command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"fmbseg: {path} does not fit sam-vit-b (")
