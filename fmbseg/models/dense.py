"""Dense CLIP features: what a patch gets from the last block, where stock attention would blur it.

CLIP was trained through its class token alone, so the last block's attention mixes the whole image
into every patch. Each function of `_VARIANTS` is one published way to read the patches out of that
block, without training. They differ in three things only:

| `clip.dense` | a patch looks at | residual | MLP |
|---|---|---|---|
| value        | itself           | no       | no  |
| sclip        | tokens with a like query, and tokens with a like key | yes | yes |
| clearclip    | tokens with a like query                             | no  | no  |
| naclip       | tokens with a like key, near ones more               | no  | no  |

In all of them the class token is a token like others, which patches may look at, and only the
patches go on to the tower's final norm and projection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmbseg.config import Dense

Grid = tuple[int, int]

# Standard deviation of NACLIP's neighbourhood, patches: the default of its authors' own code.
NEIGHBOURHOOD = 5.0


def visual_tokens(visual: Any, pixels: Tensor, dense: Dense = "value") -> tuple[Tensor, Tensor]:
    """Global and dense embeddings of an image tower from one pass, differentiable.

    The global one is the tower's own output. The dense ones go through the last block in the way
    `dense`.

    Args:
        visual: `open_clip.CLIP.visual`, a vision transformer.
        pixels: [N, 3, H, W] float, normalised, of the tower's size.
        dense: way of the patches through the last block.

    Returns:
        image [N, D] and dense [N, H / patch, W / patch, D], float32, unit.
    """
    image, tokens = last_tokens(visual, pixels)
    grid = (pixels.shape[2] // visual.patch_size[0], pixels.shape[3] // visual.patch_size[1])
    return F.normalize(image.float(), dim=-1), dense_features(visual, tokens, grid, dense)


def last_tokens(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """An image tower's own output [N, D] and the tokens [N, 1 + P, C] given to its last block."""
    overheard: list[Tensor] = []
    thread = threading.get_ident()

    def overhear(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        # Another thread may be passing through the same model.
        if threading.get_ident() == thread:
            overheard.append(arguments[0])

    # The stock forward stays in charge; the hook only keeps what the last block is given.
    hook = visual.transformer.resblocks[-1].register_forward_pre_hook(overhear)
    try:
        image: Tensor = visual(pixels)
    finally:
        hook.remove()
    return image, overheard[0]


def dense_features(visual: Any, tokens: Tensor, grid: Grid, variant: Dense) -> Tensor:
    """Patch embeddings in CLIP's shared space.

    Args:
        visual: `open_clip.CLIP.visual`, a vision transformer of width C.
        tokens: [N, 1 + h * w, C], input of its last block; the class token first.
        grid: (h, w) patches.
        variant: way through the last block.

    Returns:
        [N, h, w, D] float32, unit.
    """
    patches = _VARIANTS[variant](visual.transformer.resblocks[-1], tokens, grid)
    embedded = F.normalize((visual.ln_post(patches) @ visual.proj).float(), dim=-1)
    return embedded.view(len(embedded), *grid, -1)


def value(block: Any, tokens: Tensor, grid: Grid) -> Tensor:
    """A patch's own value (MaskCLIP: Zhou, Loy, Dai, ECCV 2022, arXiv 2112.01071).

    The value and output projections are applied to each patch alone, as 1 x 1 convolutions.

    Args:
        block: the last `ResidualAttentionBlock`.
        tokens: [N, 1 + h * w, C].
        grid: (h, w).

    Returns:
        [N, h * w, C].
    """
    width = tokens.shape[-1]
    # in_proj stacks the query, key and value projections.
    weight, bias = block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :]
    values = F.linear(block.ln_1(tokens[:, 1:]), weight, bias)
    patches: Tensor = block.ls_1(block.attn.out_proj(values))
    return patches


def sclip(block: Any, tokens: Tensor, grid: Grid) -> Tensor:
    """Correlative self-attention (SCLIP: Wang, Mei, Yuille, ECCV 2024, arXiv 2312.01597).

    (softmax(q q^T / sqrt(d)) + softmax(k k^T / sqrt(d))) v: the sum of two attentions, not their
    mean. Residual and MLP stay as they are. Arguments and result as in `value`.
    """
    q, k, v = _projected(block, tokens)
    x = tokens + _output(block, _attend(q, v) + _attend(k, v))
    x = x + block.ls_2(block.mlp(block.ln_2(x)))
    patches: Tensor = x[:, 1:]
    return patches


def clearclip(block: Any, tokens: Tensor, grid: Grid) -> Tensor:
    """Query-query attention alone (ClearCLIP: Lan et al., ECCV 2024, arXiv 2407.12442).

    softmax(q q^T / sqrt(d)) v, without the residual (the source of the noise, by that paper) and
    without the MLP. Arguments and result as in `value`.
    """
    q, _, v = _projected(block, tokens)
    return _output(block, _attend(q, v))[:, 1:]


def naclip(block: Any, tokens: Tensor, grid: Grid) -> Tensor:
    """Key-key attention to neighbours (NACLIP: Hajimiri et al., WACV 2025, arXiv 2404.08181).

    softmax(k k^T / sqrt(d) + g) v with g = exp(-|p - p'|^2 / (2 * 5^2)) between the patches at p
    and p', and 0 from and to the class token; no residual and no MLP (its "reduced" architecture).
    Arguments and result as in `value`.
    """
    _, k, v = _projected(block, tokens)
    bias = F.pad(neighbourhood(grid, tokens.device), (1, 0, 1, 0))
    return _output(block, _attend(k, v, bias))[:, 1:]


_VARIANTS: dict[Dense, Callable[[Any, Tensor, Grid], Tensor]] = {
    "value": value,
    "sclip": sclip,
    "clearclip": clearclip,
    "naclip": naclip,
}
assert tuple(_VARIANTS) == get_args(Dense)


def joint_projection(block: Any, tokens: Tensor) -> Tensor:
    """Queries, keys and values of a block's tokens [N, T, C], side by side: [N, T, 3 * C]."""
    attention = block.attn
    return F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)


def _projected(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of each head, [N, heads, T, C / heads]."""
    joint = joint_projection(block, tokens)
    heads = joint.view(*joint.shape[:2], 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    return heads[0], heads[1], heads[2]


def _attend(x: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(x x^T / sqrt(d) + bias) v: tokens attend to those that are like them."""
    return F.scaled_dot_product_attention(x, x, v, None if bias is None else bias.to(x.dtype))


def _output(block: Any, heads: Tensor) -> Tensor:
    """The heads [N, heads, T, C / heads] joined and projected, [N, T, C]."""
    joined: Tensor = block.ls_1(block.attn.out_proj(heads.transpose(1, 2).flatten(2)))
    return joined


def neighbourhood(grid: Grid, device: torch.device) -> Tensor:
    """Gaussian of the distance between every two patches, [h * w, h * w], 1 on the diagonal."""
    rows, columns = (torch.arange(length, device=device) for length in grid)
    places = torch.cartesian_prod(rows, columns).float()
    distance = (places[:, None] - places[None]).square().sum(dim=-1)
    return torch.exp(-distance / (2 * NEIGHBOURHOOD**2))
