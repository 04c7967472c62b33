from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from PIL import Image
from scipy.special import erf
from torch import Tensor, nn

from fmbseg.config import ClipSection
from fmbseg.data.vocabulary import vocabulary_from_names
from fmbseg.errors import ConfigError
from fmbseg.models import tiny
from fmbseg.models.build import build_clip
from fmbseg.models.clip import ClipModel, load_clip
from fmbseg.models.dense import visual_tokens
from fmbseg.models.text import class_similarity

Array = npt.NDArray[np.float64]
SECTION = ClipSection(short_side=128, window=64, stride=32)


@pytest.fixture(scope="module")
def windows() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


# The reference: the tower written out token by token in float64, from the weights' names alone.


def _norm(x: Array, weights: dict[str, Array], name: str) -> Array:
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(x: Array, weights: dict[str, Array], name: str) -> Array:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def _project(x: Array, weights: dict[str, Array], block: str, part: int) -> Array:
    width = len(x)
    rows = slice(part * width, (part + 1) * width)
    return (
        weights[f"{block}.attn.in_proj_weight"][rows] @ x
        + (weights[f"{block}.attn.in_proj_bias"][rows])
    )


def _block(tokens: list[Array], weights: dict[str, Array], block: str, heads: int) -> list[Array]:
    normed = [_norm(x, weights, f"{block}.ln_1") for x in tokens]
    query, key, value = ([_project(x, weights, block, i) for x in normed] for i in range(3))
    size = len(tokens[0]) // heads
    result = []
    for i, x in enumerate(tokens):
        mixed = np.zeros_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = np.array([query[i][part] @ k[part] for k in key]) / np.sqrt(size)
            attention = np.exp(scores - scores.max())
            attention /= attention.sum()
            mixed[part] = sum(a * v[part] for a, v in zip(attention, value, strict=True))
        x = x + _linear(mixed, weights, f"{block}.attn.out_proj")
        hidden = _linear(_norm(x, weights, f"{block}.ln_2"), weights, f"{block}.mlp.c_fc")
        hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
        result.append(x + _linear(hidden, weights, f"{block}.mlp.c_proj"))
    return result


def _unit(x: Array) -> Array:
    return x / np.linalg.norm(x)


def _reference(pixels: npt.NDArray[np.uint8], clip: ClipModel) -> tuple[Array, Array]:
    """Global [D] and dense [h, w, D] embedding of one window [S, S, 3]."""
    state = clip.module.visual.state_dict()
    weights = {name: value.double().numpy() for name, value in state.items()}
    layers = len(clip.module.visual.transformer.resblocks)
    heads = clip.module.visual.transformer.resblocks[0].attn.num_heads
    image = (pixels / 255 - np.array(clip.mean)) / np.array(clip.std)
    patch = clip.patch_size
    side = clip.image_size // patch
    tokens = [weights["class_embedding"]]
    for i in range(side):
        for j in range(side):
            square = image[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            kernel = weights["conv1.weight"]
            tokens.append((kernel * square.transpose(2, 0, 1)).sum(axis=(1, 2, 3)))
    tokens = [
        _norm(token + place, weights, "ln_pre")
        for token, place in zip(tokens, weights["positional_embedding"], strict=True)
    ]
    for layer in range(layers - 1):
        tokens = _block(tokens, weights, f"transformer.resblocks.{layer}", heads)
    last = f"transformer.resblocks.{layers - 1}"
    dense = []
    for token in tokens[1:]:
        value = _project(_norm(token, weights, f"{last}.ln_1"), weights, last, 2)
        out = _linear(value, weights, f"{last}.attn.out_proj")
        dense.append(_unit(_norm(out, weights, "ln_post") @ weights["proj"]))
    final = _block(tokens, weights, last, heads)[0]
    return (
        _unit(_norm(final, weights, "ln_post") @ weights["proj"]),
        np.array(dense).reshape(side, side, -1),
    )


def test_global_and_dense_embeddings_match_a_tower_written_in_loops(
    clip: ClipModel, windows: npt.NDArray[np.uint8]
) -> None:
    image, dense = clip.encode_windows(windows[:1])
    expected_image, expected_dense = _reference(windows[0], clip)
    np.testing.assert_allclose(image[0].numpy(), expected_image, atol=1e-5)
    np.testing.assert_allclose(dense[0].numpy(), expected_dense, atol=1e-5)


def test_global_embeddings_are_open_clips(clip: ClipModel, windows: npt.NDArray[np.uint8]) -> None:
    image, dense = clip.encode_windows(windows)
    pixels = torch.from_numpy(windows).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(clip.mean)[:, None, None]) / torch.tensor(clip.std)[
        :, None, None
    ]
    with torch.no_grad():
        expected = clip.module.encode_image(pixels, normalize=True)
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
    # Already normalised pixels are taken too.
    again, dense_again = clip.encode_windows(pixels)
    torch.testing.assert_close(again, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(dense_again, dense, atol=1e-5, rtol=0)
    assert image.dtype == dense.dtype == torch.float32
    assert dense.shape == (3, 8, 8, clip.embed_dim)
    torch.testing.assert_close(dense.norm(dim=-1), torch.ones(3, 8, 8))


def test_a_window_takes_one_pass_over_the_trunk(clip: ClipModel, picture: Image.Image) -> None:
    seen = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, _: seen.append((module, len(inputs[0])))
        )
        for module in (clip.module.visual, clip.module.visual.transformer.resblocks[0])
    ]
    encoding = clip.encode_image_windows(picture, SECTION.model_copy(update={"batch_size": 4}))
    for hook in hooks:
        hook.remove()
    for module in {module for module, _ in seen}:
        assert sum(count for other, count in seen if other is module) == len(encoding.windows)
    assert len({module for module, _ in seen}) == 2


def test_visual_tokens_pass_gradients_to_both_outputs() -> None:
    module = build_clip(tiny.architecture("clip"))
    image, dense = visual_tokens(module.visual, torch.randn(2, 3, 64, 64))
    dense.square().sum(dim=-1).sum().backward(retain_graph=True)
    assert module.visual.transformer.resblocks[0].mlp.c_fc.weight.grad is not None
    # The dense path goes round the last block's MLP, the global one through it.
    assert module.visual.transformer.resblocks[-1].mlp.c_fc.weight.grad is None
    image.sum().backward()
    assert module.visual.transformer.resblocks[-1].mlp.c_fc.weight.grad is not None


def test_windows_of_another_size_are_refused(clip: ClipModel) -> None:
    with pytest.raises(ConfigError, match="windows are 32 x 32 px: this CLIP takes 64 x 64"):
        clip.encode_windows(np.zeros((1, 32, 32, 3), dtype=np.uint8))


def test_threads_do_not_mix_their_windows(clip: ClipModel, windows: npt.NDArray[np.uint8]) -> None:
    alone = [clip.encode_windows(windows[i : i + 1])[1] for i in range(3)]
    results: dict[int, list[Tensor]] = {i: [] for i in range(3)}

    def work(i: int) -> None:
        for _ in range(10):
            results[i].append(clip.encode_windows(windows[i : i + 1])[1])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        for dense in results[i]:
            torch.testing.assert_close(dense, alone[i], atol=1e-6, rtol=0)


def test_bfloat16_is_close_to_float32(
    random_weights: Path, clip: ClipModel, windows: npt.NDArray[np.uint8]
) -> None:
    half = load_clip("tiny-clip", dtype=torch.bfloat16, weights_dir=random_weights)
    for approximate, exact in zip(
        half.encode_windows(windows), clip.encode_windows(windows), strict=True
    ):
        assert approximate.dtype == torch.float32
        assert F.cosine_similarity(approximate, exact, dim=-1).min() > 0.99
        assert not torch.equal(approximate, exact)


# Published architectures


@pytest.mark.parametrize(("name", "grid", "dim"), [("ViT-B-16", 14, 512), ("ViT-L-14", 16, 768)])
def test_the_published_architectures_are_open_clips_with_quick_gelu(
    name: str, grid: int, dim: int
) -> None:
    with torch.device("meta"):
        module = build_clip({**open_clip.get_model_config(name), "quick_gelu": True})
        image, dense = visual_tokens(module.visual, torch.zeros(2, 3, 224, 224))
    assert image.shape == (2, dim)
    assert dense.shape == (2, grid, grid, dim)
    for tower in (module.visual.transformer, module.transformer):
        assert all(isinstance(block.mlp.gelu, QuickGELU) for block in tower.resblocks)


def test_the_tiny_architecture_has_plain_gelu(clip: ClipModel) -> None:
    assert all(isinstance(b.mlp.gelu, nn.GELU) for b in clip.module.visual.transformer.resblocks)
    assert json.loads((tiny.FOLDER / "clip.json").read_text())["text_cfg"]["vocab_size"] == 2014


@pytest.mark.slow
def test_a_published_size_loads_and_encodes(
    tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMBSEG_OWN_WEIGHTS", "1")
    torch.manual_seed(0)
    module = build_clip({**open_clip.get_model_config("ViT-B-16"), "quick_gelu": True})
    # OpenAI's files hold half precision weights and three numbers besides.
    state = {name: value.half() for name, value in module.state_dict().items()}
    state |= {"input_resolution": torch.tensor(224), "vocab_size": torch.tensor(49408)}
    torch.save(state, tmp_path / "ViT-B-16.pt")
    model = load_clip("clip-vit-b-16", weights_dir=tmp_path)
    assert (model.image_size, model.patch_size, model.embed_dim) == (224, 16, 512)
    assert model.module.visual.conv1.weight.dtype == torch.float32
    pixels = np.asarray(picture.resize((224, 224)))[None].copy()
    image, dense = model.encode_windows(pixels)
    preprocess = open_clip.image_transform(224, is_train=False, mean=model.mean, std=model.std)
    expected = model.module.encode_image(
        preprocess(picture.resize((224, 224)))[None], normalize=True
    )
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
    assert dense.shape == (1, 14, 14, 512)
    text = model.text_embeddings(vocabulary_from_names(["dog", "traffic light"]), "subset7")
    assert class_similarity(dense, text).shape == (1, 14, 14, 2)
