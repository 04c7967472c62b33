from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fmbseg.errors import ConfigError
from fmbseg.models.backbone import Backbone, load_backbone
from fmbseg.models.build import build_encoder
from fmbseg.models.records import weights_record


def _images(count: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def _normalised(images: npt.NDArray[np.uint8], backbone: Backbone) -> Tensor:
    pixels = (images / 255 - np.array(backbone.mean)) / np.array(backbone.std)
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 216), (8, 24), (56, 64)])
def test_features_are_timms_patch_tokens(backbone: Backbone, height: int, width: int) -> None:
    images = _images(2, height, width)
    features = backbone.features(images)
    module: Any = backbone.module
    with torch.no_grad():
        tokens = module.forward_features(_normalised(images, backbone))
    assert features.shape == (2, height // 8, width // 8, backbone.dim)
    assert features.dtype == torch.float32
    for row in range(height // 8):
        for column in range(width // 8):
            # One class token, then the patches row by row.
            expected = tokens[:, 1 + row * (width // 8) + column]
            torch.testing.assert_close(features[:, row, column], expected, atol=1e-5, rtol=0)


def test_features_carry_the_final_norm(backbone: Backbone) -> None:
    features = backbone.features(_images(1, 64, 64))[0]
    norm: Any = backbone.module.norm
    before = (features - norm.bias) / norm.weight
    assert before.mean(dim=-1).abs().max() < 1e-3
    torch.testing.assert_close(
        before.var(dim=-1, correction=0), torch.ones(8, 8), atol=1e-2, rtol=0
    )


def test_a_learned_position_embedding_is_interpolated_to_the_grid() -> None:
    arguments = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    module: Any = build_encoder(
        {
            "architecture": "vit_tiny_patch16_224",
            "model_args": {**arguments, "num_classes": 0, "dynamic_img_size": True},
        }
    )
    vit = Backbone(module, weights_record("tiny-encoder", "frozen encoder"))
    images = _images(1, 128, 96)
    prefix, grid = module.pos_embed[:, :1], module.pos_embed[:, 1:]
    moved = F.interpolate(
        grid.reshape(1, 8, 8, -1).permute(0, 3, 1, 2), (16, 12), mode="bicubic", antialias=True
    )
    place = torch.cat([prefix, moved.flatten(2).transpose(1, 2)], dim=1)
    with torch.no_grad():
        patches = module.patch_embed.proj(_normalised(images, vit))
        tokens = torch.cat([module.cls_token, patches.flatten(2).transpose(1, 2)], dim=1) + place
        expected = module.norm(module.blocks(module.norm_pre(tokens)))[:, 1:]
    assert (vit.patch_size, vit.dim) == (8, 48)
    torch.testing.assert_close(vit.features(images).flatten(1, 2), expected, atol=1e-4, rtol=0)


def test_images_of_a_batch_do_not_touch_each_other(backbone: Backbone) -> None:
    images = _images(3, 64, 128)
    together = backbone.features(images)
    for i in range(3):
        torch.testing.assert_close(
            backbone.features(images[i : i + 1])[0], together[i], atol=1e-5, rtol=0
        )
    assert not backbone.features(torch.from_numpy(images)).requires_grad


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 60, 64, 3), np.uint8), "images of 64 x 60 px: resize them to multiples of 8"),
        (np.zeros((1, 0, 64, 3), np.uint8), "multiples of 8 px"),
        (np.zeros((64, 64, 3), np.uint8), r"give uint8 \[N, H, W, 3\]"),
        (np.zeros((1, 3, 64, 64), np.uint8), r"give uint8 \[N, H, W, 3\]"),
        (np.zeros((1, 64, 64, 3), np.float32), "images are torch.float32"),
    ],
)
def test_other_images_are_refused(
    backbone: Backbone, images: npt.NDArray[np.uint8], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        backbone.features(images)


def test_bfloat16_is_close_to_float32(random_weights: Path, backbone: Backbone) -> None:
    half = load_backbone("tiny-encoder", dtype=torch.bfloat16, weights_dir=random_weights)
    images = _images(1, 64, 64)
    exact, approximate = backbone.features(images), half.features(images)
    assert approximate.dtype == torch.float32
    assert F.cosine_similarity(exact, approximate, dim=-1).min() > 0.99


def test_dinov2_takes_any_multiple_of_its_patch() -> None:
    config = {
        "architecture": "vit_base_patch14_dinov2",
        "model_args": {"num_classes": 0, "dynamic_img_size": True},
    }
    with torch.device("meta"):
        module: Any = build_encoder(config)
        tokens = module.forward_features(torch.zeros(1, 3, 28, 56))
    assert tokens.shape == (1, 1 + 2 * 4, 768)
    # As published: 37 x 37 patches and a class token, layer scale in every block.
    assert module.state_dict()["pos_embed"].shape == (1, 1370, 768)
    assert "blocks.11.ls2.gamma" in module.state_dict()


@pytest.mark.slow
def test_dinov2s_published_layout_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMBSEG_OWN_WEIGHTS", "1")
    torch.manual_seed(0)
    module: Any = build_encoder(
        {
            "architecture": "vit_base_patch14_dinov2",
            "model_args": {"num_classes": 0, "dynamic_img_size": True},
        }
    )
    state = {**module.state_dict(), "mask_token": torch.zeros(1, 768)}
    torch.save(state, tmp_path / "dinov2_vitb14_pretrain.pth")
    backbone = load_backbone("dinov2-vit-b-14", weights_dir=tmp_path)
    images = _images(1, 70, 84)
    with torch.no_grad():
        tokens = module.forward_features(_normalised(images, backbone))
    features = backbone.features(images)
    assert features.shape == (1, 5, 6, 768)
    torch.testing.assert_close(features.flatten(1, 2), tokens[:, 1:], atol=1e-4, rtol=0)
