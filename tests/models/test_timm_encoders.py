"""Any encoder of timm by its name, from random weights in the format of timm's hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import resolve_model_data_config
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from fmbseg.errors import WeightsError
from fmbseg.models.backbone import Backbone, load_backbone
from fmbseg.models.records import weights_record
from fmbseg.presets import preset

DINOV2 = "vit_small_patch14_dinov2.lvd142m"
FCMAE = "convnextv2_atto.fcmae"  # of 3.4 M parameters
TEST_VIT = "test_vit.r160_in1k"  # timm's own, of 0.4 M parameters


def _publish(name: str, folder: Path) -> Any:
    """A module of timm with random weights in every tensor, and the file its hub would have."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        module = timm.create_model(name).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.02 * torch.randn(parameter.shape)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in module.state_dict().items()}
    save_file(state, folder / f"{name}.safetensors")
    return module


def _images(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (1, height, width, 3), dtype=np.uint8)


def _normalised(images: npt.NDArray[np.uint8], module: Any) -> Tensor:
    config = resolve_model_data_config(module)
    pixels = (images / 255 - np.array(config["mean"])) / np.array(config["std"])
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()


def _tokens(module: Any, pixels: Tensor) -> Tensor:
    """Patch tokens [N, h * w, D] by timm's own forward, in a module built for this size."""
    with torch.no_grad():
        tokens: Tensor = module.forward_features(pixels)
    return tokens[:, getattr(module, "num_prefix_tokens", 1) :]


def _check(encoder: Backbone, module: Any, size: tuple[int, int], expected: Tensor) -> None:
    images = _images(*size)
    features = encoder.features(images)
    patch = encoder.patch_size
    assert features.shape == (1, size[0] // patch, size[1] // patch, encoder.dim)
    torch.testing.assert_close(features.flatten(1, 2), expected, atol=2e-4, rtol=1e-4)


def test_dinov2s_position_embedding_is_resized_to_the_picture(tmp_path: Path) -> None:
    module = _publish(DINOV2, tmp_path)
    encoder = load_backbone(f"timm/{DINOV2}", weights_dir=tmp_path)
    assert (encoder.patch_size, encoder.dim) == (14, 384)
    state = module.state_dict()
    state["pos_embed"] = resample_abs_pos_embed(
        state["pos_embed"], new_size=(5, 7), num_prefix_tokens=1
    )
    fixed = timm.create_model(DINOV2, img_size=(70, 98)).eval()
    fixed.load_state_dict(state)
    _check(encoder, module, (70, 98), _tokens(fixed, _normalised(_images(70, 98), module)))


@pytest.mark.parametrize(
    ("name", "patch", "channels"),
    [
        ("vit_small_patch8_224.dino", 8, 384),
        ("vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", 16, 192),
        ("eva02_tiny_patch14_224.mim_in22k", 14, 192),
        (TEST_VIT, 16, 64),
    ],
)
def test_patch_size_normalisation_and_layout_are_timms(
    tmp_path: Path, name: str, patch: int, channels: int
) -> None:
    module = _publish(name, tmp_path)
    encoder = load_backbone(f"timm/{name}", weights_dir=tmp_path)
    config = resolve_model_data_config(module)
    assert (encoder.patch_size, encoder.dim) == (patch, channels)
    assert (encoder.mean, encoder.std) == (config["mean"], config["std"])
    assert weights_record(f"timm/{name}").size == config["input_size"][-1]
    # The size the weights were made for: no position embedding has to be resized.
    size = config["input_size"][1:]
    _check(encoder, module, size, _tokens(module, _normalised(_images(*size), module)))
    assert encoder.features(_images(2 * patch, 3 * patch)).shape == (1, 2, 3, channels)


def test_xcits_patches_are_taken_before_its_class_attention(tmp_path: Path) -> None:
    name = "xcit_nano_12_p8_224.fb_in1k"
    module = _publish(name, tmp_path)
    encoder = load_backbone(f"timm/{name}", weights_dir=tmp_path)
    assert (encoder.patch_size, encoder.dim) == (8, 128)
    with torch.no_grad():
        tokens, (rows, columns) = module.patch_embed(_normalised(_images(64, 40), module))
        tokens = tokens + module.pos_embed(1, rows, columns).flatten(2).transpose(1, 2)
        for block in module.blocks:
            tokens = block(tokens, rows, columns)
        expected = module.norm(tokens)
    _check(encoder, module, (64, 40), expected)


@pytest.mark.parametrize(("layer", "patch", "channels"), [(1, 8, 80), (2, 16, 160), (3, 32, 320)])
def test_a_stage_of_a_convnext_is_chosen_in_the_name(
    tmp_path: Path, layer: int, patch: int, channels: int
) -> None:
    name = "convnext_atto.d2_in1k"
    module = _publish(name, tmp_path)
    encoder = load_backbone(f"timm/{name}@{layer}", weights_dir=tmp_path)
    assert (encoder.patch_size, encoder.dim) == (patch, channels)
    with torch.no_grad():
        maps = module.stem(_normalised(_images(64, 96), module))
        for stage in module.stages[: layer + 1]:
            maps = stage(maps)
    _check(encoder, module, (64, 96), maps.flatten(2).transpose(1, 2))
    if layer == 3:
        last = load_backbone(f"timm/{name}", weights_dir=tmp_path)
        assert torch.equal(last.features(_images(64, 96)), encoder.features(_images(64, 96)))


def test_an_earlier_block_of_a_transformer(tmp_path: Path) -> None:
    module = _publish(TEST_VIT, tmp_path)
    encoder = load_backbone(f"timm/{TEST_VIT}@2", weights_dir=tmp_path)
    with torch.no_grad():
        tokens = module.patch_embed(_normalised(_images(160, 160), module))
        tokens = module.norm_pre(module.patch_drop(module._pos_embed(tokens)))
        expected = module.norm(module.blocks[:3](tokens))[:, 1:]
    _check(encoder, module, (160, 160), expected)


def test_layers_joined_are_the_layers_one_by_one(tmp_path: Path) -> None:
    _publish(TEST_VIT, tmp_path)
    images = _images(64, 96)
    single = [load_backbone(f"timm/{TEST_VIT}@{layer}", weights_dir=tmp_path) for layer in (1, 3)]
    joined = load_backbone(f"timm/{TEST_VIT}@1+3", weights_dir=tmp_path)
    expected = torch.cat([encoder.features(images) for encoder in single], dim=-1)
    assert torch.equal(joined.features(images), expected)
    assert joined.dim == sum(encoder.dim for encoder in single) == expected.shape[-1]


def test_layers_of_a_model_of_the_registry() -> None:
    images = _images(64, 64)
    joined, last = load_backbone("tiny-encoder@0+3"), load_backbone("tiny-encoder")
    assert joined.dim == 2 * last.dim
    assert torch.equal(joined.features(images)[..., last.dim :], last.features(images))


def test_layers_of_different_patches_do_not_join(tmp_path: Path) -> None:
    _publish("convnext_atto.d2_in1k", tmp_path)
    with pytest.raises(WeightsError, match="layers of different patches do not join"):
        load_backbone("timm/convnext_atto.d2_in1k@1+2", weights_dir=tmp_path)


def test_layers_are_taken_of_frozen_encoders_alone() -> None:
    with pytest.raises(WeightsError, match="tiny-clip is a CLIP: only of a frozen encoder"):
        weights_record("tiny-clip@1")


def test_a_file_in_its_authors_layout_is_read_as_timm_reads_it(tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    module = _publish(name, tmp_path)
    path = tmp_path / f"{name}.safetensors"
    state = load_file(path)
    # DINOv2's authors add a place to the class token, and keep the token that hid patches.
    place = torch.randn(1, 1, 384)
    state["pos_embed"] = torch.cat([place, state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - place
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, 384)
    save_file(state, path)
    encoder = load_backbone(f"timm/{name}", weights_dir=tmp_path)
    for key, value in encoder.module.state_dict().items():
        torch.testing.assert_close(value, module.state_dict()[key])


def test_an_encoder_is_taken_out_of_its_published_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As I-JEPA's authors publish theirs, of 630 M parameters and more.
    monkeypatch.setenv("FMBSEG_OWN_WEIGHTS", "1")
    module = timm.create_model("legacy_seresnet18.in1k")
    state = module.state_dict()
    training = {"encoder": {f"module.{key}": state[key] for key in state}, "epoch": 3}
    torch.save(training, tmp_path / "legacy_seresnet18.in1k.pth")
    encoder = load_backbone("timm/legacy_seresnet18.in1k", weights_dir=tmp_path)
    for key, value in encoder.module.state_dict().items():
        assert torch.equal(value, state[key])


def _published_state(name: str, folder: Path) -> dict[str, Tensor]:
    _publish(name, folder)
    # No views of the file, which a test writes anew.
    return {k: v.clone() for k, v in load_file(folder / f"{name}.safetensors").items()}


def test_a_file_may_lack_what_features_do_not_depend_on_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # timm loads it without strictness: its hub's file has no norm of the classifier.
    path = tmp_path / f"{FCMAE}.safetensors"
    whole = _published_state(FCMAE, tmp_path)
    published = {key: value for key, value in whole.items() if not key.startswith("head.")}
    assert len(published) == len(whole) - 2
    save_file(published, path)
    loaded = load_backbone(f"timm/{FCMAE}", weights_dir=tmp_path).module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in published.items())
    for key in ("stem.0.weight", "stages.0.blocks.0.norm.weight", "stages.3.blocks.1.mlp.fc2.bias"):
        save_file({name: value for name, value in published.items() if name != key}, path)
        assert f"(no {key} and 2 more)" in _refused(f"timm/{FCMAE}", tmp_path)
    for foreign in (
        {f"encoder.{key}": value for key, value in published.items()},
        {"weight": torch.zeros(1)},
        {},
    ):
        save_file(foreign, path)
        message = _refused(f"timm/{FCMAE}", tmp_path)
        assert message.startswith(f"{path} does not fit timm/{FCMAE} (no stem.0.weight and ")
    assert "Unexpected keys" not in caplog.text


@pytest.mark.slow
def test_a_siglip_without_its_pool_is_taken_whole_or_refused(tmp_path: Path) -> None:
    name = "vit_base_patch16_siglip_gap_224.webli"
    path = tmp_path / f"{name}.safetensors"
    state = _published_state(name, tmp_path)
    # The hub's file holds the attention pool that this architecture leaves out.
    save_file({**state, "attn_pool.latent": torch.zeros(1, 1, 768)}, path)
    loaded = load_backbone(f"timm/{name}", weights_dir=tmp_path).module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    save_file({key: state[key] for key in state if key != "blocks.3.norm1.weight"}, path)
    assert "(no blocks.3.norm1.weight)" in _refused(f"timm/{name}", tmp_path)
    save_file({f"x.{key}": value for key, value in state.items()}, path)
    assert "does not fit" in _refused(f"timm/{name}", tmp_path)


def _refused(name: str, folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_backbone(name, weights_dir=folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_truncated_renamed_and_foreign_files_are_refused(tmp_path: Path) -> None:
    _publish(TEST_VIT, tmp_path)
    path = tmp_path / f"{TEST_VIT}.safetensors"
    good = path.read_bytes()
    state = {key: value.clone() for key, value in load_file(path).items()}  # no view of the file
    path.write_bytes(good[: len(good) // 2])
    assert "is cut off, damaged" in _refused(f"timm/{TEST_VIT}", tmp_path)
    for changed, problem in (
        ({f"encoder.{key}": value for key, value in state.items()}, "(no "),
        ({key: value for key, value in state.items() if key != "norm.weight"}, "no norm.weight)"),
        # timm itself would bend this patch embedding to fit.
        (
            {
                **state,
                "patch_embed.proj.weight": torch.zeros(64, 3, 14, 14),
                "mask_token": torch.zeros(1, 64),
            },
            "patch_embed.proj.weight is (64, 3, 14, 14) instead of (64, 3, 16, 16)",
        ),
    ):
        save_file(changed, path)
        message = _refused(f"timm/{TEST_VIT}", tmp_path)
        assert message.startswith(f"{path} does not fit timm/{TEST_VIT} (")
        assert problem in message
    _publish("test_resnet.r160_in1k", tmp_path).eval()
    (tmp_path / "test_resnet.r160_in1k.safetensors").replace(path)
    assert "does not fit" in _refused(f"timm/{TEST_VIT}", tmp_path)


def test_weights_of_another_architecture_are_refused_in_an_authors_layout_too(
    tmp_path: Path,
) -> None:
    # timm would resample patches and positions, and leave out blocks that are too many.
    path = tmp_path / f"{TEST_VIT}.safetensors"
    state = _published_state(TEST_VIT, tmp_path)
    coarser = state | {"pos_embed": torch.randn(1, 1 + 4 * 4, 64), "mask_token": torch.zeros(1)}
    larger = {f"visual.trunk.{key}": value for key, value in state.items()}
    larger["visual.trunk.patch_embed.proj.weight"] = torch.randn(64, 3, 32, 32)
    save_file(larger | {"visual.trunk.pos_embed": torch.randn(1, 1 + 5 * 5, 64)}, path)
    assert "does not fit" in _refused(f"timm/{TEST_VIT}", tmp_path)
    save_file(coarser, path)
    assert "does not fit" in _refused(f"timm/{TEST_VIT}", tmp_path)
    right = {f"visual.trunk.{key}": value for key, value in state.items()}
    for extra in ({}, {"text.transformer.resblocks.0.ln_1.weight": torch.zeros(64)}):
        save_file(right | extra, path)
        loaded = load_backbone(f"timm/{TEST_VIT}", weights_dir=tmp_path).module.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in state.items())
    deeper = {key.replace(".blocks.1.", ".blocks.12."): v.clone() for key, v in right.items()}
    save_file(right | deeper, path)
    assert "does not fit" in _refused(f"timm/{TEST_VIT}", tmp_path)


def test_a_network_of_more_blocks_is_refused_where_timm_leaves_them_out(tmp_path: Path) -> None:
    path = tmp_path / f"{FCMAE}.safetensors"
    state = _published_state(FCMAE, tmp_path)
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    more = {k.replace("2.blocks.5.", "2.blocks.6."): v.clone() for k, v in state.items()}
    save_file(state | more, path)
    assert "does not fit" in _refused(f"timm/{FCMAE}", tmp_path)


def test_a_missing_file_is_named_with_its_hub_and_its_place(tmp_path: Path) -> None:
    assert _refused(f"timm/{TEST_VIT}", tmp_path) == (
        f"weights of timm/{TEST_VIT}: {TEST_VIT}.safetensors is not in {tmp_path}: put it there "
        f"(from https://huggingface.co/timm/{TEST_VIT}/resolve/main/model.safetensors), "
        "or give another folder with --weights-dir"
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm/vit_smal_patch14_dinov2", "did you mean vit_small_patch"),
        (f"timm/{TEST_VIT}x", f"timm publishes no '{TEST_VIT}x': did you mean {TEST_VIT}"),
        (f"timm/{TEST_VIT}@last", "after @ come layers, such as"),
        (f"timm/{TEST_VIT}@\u00b2", "after @ come layers, such as"),
        (f"timm/{TEST_VIT}@1+", "after @ come layers, such as"),
        (f"timm/{TEST_VIT}@2+1", "name each layer once, in ascending order"),
        (f"timm/{TEST_VIT}@1+1", "name each layer once, in ascending order"),
        (f"timm/{TEST_VIT}@99", "it has no such layer; choose one of 0 (64 channels, patch 16 px)"),
        ("timm/resmlp_12_224.fb_dino", "does not take pictures of any size"),
        ("vit_small_patch14_dinov2", "choose one of tiny-encoder, dinov2-vit-b-14"),
        ("open_clip/ViT-B-16/openai", "is a CLIP, where a frozen encoder is needed"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    for file in (TEST_VIT, "resmlp_12_224.fb_dino"):
        (tmp_path / f"{file}.safetensors").write_bytes(b"here")
    assert reason in _refused(name, tmp_path)


def test_open_clips_tags_are_records_with_their_activation() -> None:
    laion = weights_record("open_clip/ViT-B-16/laion2b_s34b_b88k", "CLIP")
    openai = weights_record("open_clip/ViT-B-16/openai", "CLIP")
    assert (laion.activation, openai.activation) == ("gelu", "quick_gelu")
    assert (laion.size, laion.mean, laion.std) == (224, openai.mean, openai.std)
    assert laion.file == "ViT-B-16.laion2b_s34b_b88k.safetensors"
    assert laion.source == (
        "https://huggingface.co/laion/CLIP-ViT-B-16-laion2B-s34B-b88K/resolve/main/"
        "open_clip_model.safetensors"
    )
    for name, reason in (
        ("open_clip/ViT-B-16-SigLIP/webli", "is not built as CLIP is"),
        ("open_clip/RN50/openai", "is not built as CLIP is"),
        ("open_clip/ViT-B-16/mine", "open_clip has no weights 'mine' of ViT-B-16: it has openai,"),
        ("open_clip/ViTB16/openai", "open_clip has no 'ViTB16': did you mean"),
        ("open_clip/hf-hub:laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "has no 'hf-hub:laion': see"),
        ("open_clip/local-dir:x/y", "open_clip has no 'local-dir:x': see open_clip.list_models()"),
        ("open_clip/local-dir:/y", "open_clip has no 'local-dir:': see open_clip.list_models()"),
    ):
        with pytest.raises(WeightsError) as caught:
            weights_record(name)
        assert reason in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov3", "c-radio", "tipsv2"])
def test_encoders_of_presets_at_their_real_size(name: str, tmp_path: Path) -> None:
    # The three give their patches in ways of their own: rotary, conditioned and resampled places.
    record = weights_record(preset(name)["features"]["encoder"], "frozen encoder")
    module = _publish(record.architecture, tmp_path)
    encoder = load_backbone(record.name, weights_dir=tmp_path)
    images = _images(4 * encoder.patch_size, 6 * encoder.patch_size)
    features = encoder.features(images)
    assert features.shape == (1, 4, 6, 768)
    tokens = timm.create_model(record.architecture, img_size=tuple(images.shape[1:3])).eval()
    resized = timm.models.vision_transformer.checkpoint_filter_fn(module.state_dict(), tokens)
    tokens.load_state_dict(resized)
    expected = _tokens(tokens, _normalised(images, module)).view(1, 4, 6, 768)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
