"""Each way to the dense features against attention written out head by head, query by query."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from PIL import Image
from scipy.special import erf
from torch import Tensor, nn

from fmbseg.config import ClipSection, Dense
from fmbseg.models import tiny
from fmbseg.models.build import build_clip
from fmbseg.models.clip import ClipModel, load_clip
from fmbseg.models.dense import visual_tokens

Array = npt.NDArray[np.float64]
VARIANTS: tuple[Dense, ...] = ("value", "sclip", "clearclip", "naclip")


# The reference, in float64, from the weights' names and the papers' formulas alone.


def _norm(x: Array, weights: dict[str, Array], name: str) -> Array:
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _softmax(scores: list[float]) -> list[float]:
    highest = max(scores)
    raised = [np.exp(score - highest) for score in scores]
    total = sum(raised)
    return [each / total for each in raised]


def _like(rows: list[Array], i: int, near: list[float] | None = None) -> list[float]:
    """Attention of token i to tokens of a similar row."""
    scores = [float(rows[i] @ other) / np.sqrt(len(other)) for other in rows]
    if near is not None:
        scores = [score + more for score, more in zip(scores, near, strict=True)]
    return _softmax(scores)


def _near(i: int, grid: tuple[int, int]) -> list[float]:
    """What NACLIP adds to the scores of patch token i, the class token's first."""
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    y, x = places[i - 1]
    return [0.0, *(np.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * 5.0**2)) for v, u in places)]


def _reference(
    visual: Any, tokens: Tensor, grid: tuple[int, int], variant: str, chosen: list[int]
) -> Array:
    """Unit dense embeddings of the chosen patches of one image from the last block's input."""
    weights = {name: value.double().numpy() for name, value in visual.state_dict().items()}
    block = visual.transformer.resblocks[-1]
    last = f"transformer.resblocks.{len(visual.transformer.resblocks) - 1}"
    heads, quick = block.attn.num_heads, not isinstance(block.mlp.gelu, nn.GELU)
    inputs = list(tokens.double().numpy())
    width = len(inputs[0])
    joint = [
        weights[f"{last}.attn.in_proj_weight"] @ _norm(x, weights, f"{last}.ln_1")
        + weights[f"{last}.attn.in_proj_bias"]
        for x in inputs
    ]
    size = width // heads
    parts = [slice(head * size, (head + 1) * size) for head in range(heads)]
    # each [head][token]
    queries, keys, values = (
        [[row[k * width : (k + 1) * width][part] for row in joint] for part in parts]
        for k in range(3)
    )
    dense = []
    for i in (1 + patch for patch in chosen):
        mixed = np.zeros(width)
        for part, query, key, value in zip(parts, queries, keys, values, strict=True):
            if variant == "value":
                mixed[part] = value[i]
                continue
            if variant == "sclip":
                attention = [a + b for a, b in zip(_like(query, i), _like(key, i), strict=True)]
            elif variant == "clearclip":
                attention = _like(query, i)
            else:
                attention = _like(key, i, _near(i, grid))
            for a, v in zip(attention, value, strict=True):
                mixed[part] += a * v
        x = weights[f"{last}.attn.out_proj.weight"] @ mixed
        x = x + weights[f"{last}.attn.out_proj.bias"]
        if variant == "sclip":
            x = x + inputs[i]
            hidden = weights[f"{last}.mlp.c_fc.weight"] @ _norm(x, weights, f"{last}.ln_2")
            hidden = hidden + weights[f"{last}.mlp.c_fc.bias"]
            if quick:
                hidden = hidden / (1 + np.exp(-1.702 * hidden))
            else:
                hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
            x = x + weights[f"{last}.mlp.c_proj.weight"] @ hidden
            x = x + weights[f"{last}.mlp.c_proj.bias"]
        embedded = _norm(x, weights, "ln_post") @ weights["proj"]
        dense.append(embedded / np.linalg.norm(embedded))
    return np.array(dense)


@torch.no_grad()
def _last_input(visual: Any, pixels: Tensor) -> Tensor:
    """What the stock forward gives its last block, [N, T, C]."""
    seen: list[Tensor] = []
    hook = visual.transformer.resblocks[-1].register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    visual(pixels)
    hook.remove()
    return seen[0]


def _noisy(config: dict[str, Any]) -> Any:
    """A random image tower whose attentions are neither flat nor on one token alone."""
    torch.manual_seed(0)
    visual = build_clip(config).visual
    attention = visual.transformer.resblocks[-1].attn
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
        attention.in_proj_weight.mul_(2 * (128 / attention.embed_dim) ** 0.5)
    return visual.eval()


def _check(visual: Any, pixels: Tensor, grid: tuple[int, int], chosen: list[int]) -> None:
    tokens = _last_input(visual, pixels)
    expected = {}
    for variant in VARIANTS:
        with torch.no_grad():
            image, dense = visual_tokens(visual, pixels, variant)
            stock = nn.functional.normalize(visual(pixels), dim=-1)
        torch.testing.assert_close(image, stock, atol=1e-5, rtol=0)
        assert dense.shape == (1, *grid, image.shape[1]) and dense.dtype == torch.float32
        expected[variant] = _reference(visual, tokens[0], grid, variant, chosen)
        found = dense[0].flatten(0, 1)[chosen].numpy()
        np.testing.assert_allclose(found, expected[variant], atol=1e-5)
    # The comparison can tell the variants apart.
    for i, variant in enumerate(VARIANTS):
        for other in VARIANTS[:i]:
            assert np.abs(expected[variant] - expected[other]).max() > 1e-3, (variant, other)


@pytest.mark.parametrize("size", [(64, 64), (32, 72)], ids=["square", "wide"])
def test_every_variant_is_its_attention_written_in_loops(size: tuple[int, int]) -> None:
    config = tiny.architecture("clip")
    config["vision_cfg"]["image_size"] = size
    grid = (size[0] // 8, size[1] // 8)
    _check(_noisy(config), torch.randn(1, 3, *size), grid, list(range(grid[0] * grid[1])))


@pytest.mark.slow
def test_every_variant_is_its_attention_written_in_loops_at_base_size() -> None:
    config = open_clip.get_model_config("ViT-B-16")
    config["text_cfg"]["layers"] = 1
    visual = _noisy({**config, "quick_gelu": True})
    assert visual.transformer.resblocks[-1].attn.num_heads == 12
    _check(visual, torch.randn(1, 3, 224, 224), (14, 14), [0, 13, 14, 90, 91, 104, 182, 195])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_global_embedding_is_the_same_for_all(
    clip: ClipModel, picture: Image.Image, variant: Dense
) -> None:
    stock = clip.encode_image_windows(picture, ClipSection())
    found = clip.encode_image_windows(picture, ClipSection(dense=variant))
    assert found.windows.tobytes() == stock.windows.tobytes()
    assert found.dense.shape == stock.dense.shape == (16, 27, clip.embed_dim)
    differ = found.dense.tobytes() != stock.dense.tobytes()
    assert differ == (variant != "value")
    np.testing.assert_allclose(np.linalg.norm(found.dense.astype(float), axis=-1), 1, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_window_still_takes_one_pass(clip: ClipModel, variant: Dense) -> None:
    calls: list[int] = []
    blocks = clip.module.visual.transformer.resblocks
    hooks = [block.register_forward_hook(lambda *_: calls.append(1)) for block in blocks]
    clip.encode_windows(np.zeros((2, 64, 64, 3), np.uint8), variant)
    for hook in hooks:
        hook.remove()
    assert len(calls) == len(blocks)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_differentiable(variant: Dense) -> None:
    visual = _noisy(tiny.architecture("clip"))
    _, dense = visual_tokens(visual, torch.randn(1, 3, 64, 64), variant)
    dense[..., 0].sum().backward()
    gradient = visual.transformer.resblocks[0].mlp.c_fc.weight.grad
    assert gradient is not None and gradient.abs().max() > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_stays_close(variant: Dense) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    exact = load_clip("tiny-clip").encode_windows(pixels, variant)[1]
    half = load_clip("tiny-clip", dtype=torch.bfloat16).encode_windows(pixels, variant)[1]
    assert half.dtype == torch.float32 and not torch.equal(half, exact)
    assert nn.functional.cosine_similarity(half, exact, dim=-1).min() > 0.98
