"""The last block over a whole image, against each method's formula written in plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from fmbseg.config import ClipSection
from fmbseg.data.windows import sliding_windows
from fmbseg.models.clip import ClipModel
from fmbseg.models.dense import last_tokens
from fmbseg.models.last_block import LastBlock, proxy_attention, scoped_attention

Array = npt.NDArray[np.float64]
SECTION = ClipSection(short_side=72, window=64, stride=32)
GRID = (9, 15)  # of the picture, 150 x 90 px, in patches of 8 px


def softmax(scores: dict[int, float], count: int) -> list[float]:
    """Over the tokens that have a score."""
    highest = max(scores.values())
    raised = {j: np.exp(score - highest) for j, score in scores.items()}
    return [raised.get(j, 0.0) / sum(raised.values()) for j in range(count)]


def norm(x: Array, module: Any) -> Array:
    weight, bias = (each.double().numpy() for each in (module.weight, module.bias))
    centred = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return np.asarray(centred * weight + bias)


def joined(clip: ClipModel, picture: Image.Image) -> Array:
    """[h, w, 3 * C]: each window's tokens projected, the mean over the windows of a patch."""
    visual: Any = clip.module.visual
    block = visual.transformer.resblocks[-1]
    weight = block.attn.in_proj_weight.double().numpy()
    bias = block.attn.in_proj_bias.double().numpy()
    resized = picture.resize((120, 72), Image.Resampling.BICUBIC)
    total = np.zeros((*GRID, len(bias)))
    count = np.zeros((*GRID, 1))
    mean, std = np.array(clip.mean), np.array(clip.std)
    for top, left in sliding_windows(72, 120, 64, 32):
        crop = np.asarray(resized.crop((left, top, left + 64, top + 64))) / 255
        pixels = torch.from_numpy((crop - mean) / std).float().permute(2, 0, 1)[None]
        with torch.no_grad():
            tokens = last_tokens(visual, pixels)[1][0].double().numpy()
        for i in range(8):
            for j in range(8):
                token = norm(tokens[1 + 8 * i + j], block.ln_1)
                total[top // 8 + i, left // 8 + j] += weight @ token + bias
                count[top // 8 + i, left // 8 + j] += 1
    assert count.min() == 1 and count.max() > 4
    return np.asarray(total / count)


@pytest.fixture(scope="module")
def block(clip: ClipModel, picture: Image.Image) -> LastBlock:
    return clip.last_block(picture, SECTION)


@pytest.fixture(scope="module")
def expected(clip: ClipModel, picture: Image.Image) -> Array:
    return joined(clip, picture)


def attended(visual: Any, values: Array, attention: list[list[list[float]]]) -> Array:
    """[T, D] from the values [T, C] and the attention of each head, token by token."""
    block, heads = visual.transformer.resblocks[-1], len(attention)
    size = values.shape[1] // heads
    dense = []
    for i in range(len(values)):
        mixed = np.zeros(values.shape[1])
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for j, weight in enumerate(attention[head][i]):
                mixed[part] += weight * values[j, part]
        out = block.attn.out_proj
        x = out.weight.double().numpy() @ mixed + out.bias.double().numpy()
        embedded = norm(x, visual.ln_post) @ visual.proj.double().numpy()
        dense.append(embedded / np.linalg.norm(embedded))
    return np.array(dense)


def test_the_windows_are_joined_patch_by_patch(block: LastBlock, expected: Array) -> None:
    assert block.grid == GRID and block.joint.dtype == torch.float32
    np.testing.assert_allclose(block.joint.numpy(), expected, atol=1e-4)


def test_stitch_looks_at_like_keys_of_the_whole_image(block: LastBlock, expected: Array) -> None:
    heads = block.visual.transformer.resblocks[-1].attn.num_heads
    width = expected.shape[2] // 3
    flat = expected.reshape(-1, 3 * width)
    keys, values = flat[:, width : 2 * width], flat[:, 2 * width :]
    places = [(row, column) for row in range(GRID[0]) for column in range(GRID[1])]
    attention = []
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        rows = []
        for i, (y, x) in enumerate(places):
            scores = {
                j: keys[i, part] @ keys[j, part] / np.sqrt(width // heads)
                + np.exp(-((y - v) ** 2 + (x - u) ** 2) / 50)
                for j, (v, u) in enumerate(places)
            }
            rows.append(softmax(scores, len(places)))
        attention.append(rows)
    found = block.attend(block.stitched(), GRID)
    assert found.shape == (*GRID, block.visual.output_dim) and found.dtype == torch.float32
    np.testing.assert_allclose(
        found.flatten(0, 1).numpy(), attended(block.visual, values, attention), atol=1e-4
    )


def features(seed: int = 0) -> tuple[torch.Tensor, list[Array]]:
    """Of 12 patches in three groups, and the same as unit rows."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.normal(size=(3, 5)), 4, axis=0) + 0.6 * rng.normal(size=(12, 5))
    return torch.from_numpy(rows).float(), [row / np.linalg.norm(row) for row in rows]


def test_proxy_attention_is_its_formula() -> None:
    given, unit = features()
    mean = sum(float(a @ b) for a in unit for b in unit) / len(unit) ** 2
    expected = []
    for a in unit:
        logits = [3.0 * (float(a @ b) - 1.2 * mean) for b in unit]
        expected.append(softmax({j: x for j, x in enumerate(logits) if x >= 0}, len(unit)))
    found = proxy_attention(given).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 12 < (found > 0).sum() < 144


def test_scoped_attention_is_its_formula() -> None:
    given, unit = features()
    regions = [1, 1, 2, 0, 2, 2, 1, 0, 3, 3, 3, 0]
    mean = sum(float(a @ b) for a in unit for b in unit) / len(unit) ** 2
    expected = []
    for i, a in enumerate(unit):
        scores = {}
        for j, b in enumerate(unit):
            cosine = float(a @ b)
            if regions[i] == 0 or regions[j] == 0:
                if cosine > mean:
                    scores[j] = 4 * cosine
            elif regions[i] == regions[j]:
                scores[j] = 4 * cosine
        expected.append(softmax(scores, len(unit)))
    found = scoped_attention(given, torch.tensor(regions)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found[0, 2] == 0 and found[0, 1] > 0


@pytest.mark.parametrize("alike", [True, False], ids=["all alike", "one zero"])
def test_no_patch_is_left_without_any_to_look_at(alike: bool) -> None:
    """Of equal patches none is above 1.2 times the mean; a zero vector is like nothing."""
    given = torch.ones(4, 3)
    if not alike:
        given[0] = 0
    none = torch.zeros(4, dtype=torch.int64)
    for attention in (proxy_attention(given), scoped_attention(given, none)):
        torch.testing.assert_close(attention.sum(dim=1), torch.ones(4))


def test_values_go_to_the_grid_of_the_attention(block: LastBlock) -> None:
    """Every patch looks at itself: the values are resampled, nothing else changes."""
    finer = (2 * GRID[0], 2 * GRID[1])
    own = block.attend(torch.eye(GRID[0] * GRID[1]), GRID)
    found = block.attend(torch.eye(finer[0] * finer[1]), finer)
    assert found.shape[:2] == finer
    # The middle of four new patches is the old one, but for the norm of the tower.
    mean = torch.nn.functional.avg_pool2d(found.permute(2, 0, 1), 2).permute(1, 2, 0)
    inner = torch.nn.functional.cosine_similarity(mean, own, dim=-1)[1:-1, 1:-1]
    assert inner.mean() > 0.95
