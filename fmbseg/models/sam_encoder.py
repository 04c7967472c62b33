"""SAM's image encoder on a CPU: attention of a few windows and heads at a time, in cache.

The same function of the same weights as `segment_anything`'s encoder, whose module it reads;
products, sums and softmax are taken in the stock order. There the attention of all windows and
heads is one tensor, written five times over (product, two position terms, softmax); here each part
is written in place while it is in the cache. Of the shapes of `tiny` and ViT-B every bit is the
stock encoder's; where BLAS takes another kernel for fewer products at once, the last bits differ.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor

# Attention weights that are worked on at once: 2 MB, what fits a core's cache.
_CACHED = 2**19


class PartedEncoder:
    """An encoder's weights, applied without gradients in float32.

    Args:
        module: the stock encoder, in evaluation mode.
    """

    def __init__(self, module: ImageEncoderViT) -> None:
        self._module = module

    def __call__(self, images: Tensor) -> Tensor:
        """Features [B, C, h, w] of preprocessed, padded images [B, 3, S, S]."""
        module = self._module
        tokens: Tensor = module.patch_embed(images)
        if module.pos_embed is not None:
            tokens = tokens + module.pos_embed
        for block in module.blocks:
            tokens = _block(block, tokens)
        features: Tensor = module.neck(tokens.permute(0, 3, 1, 2))
        return features


def _block(block: Block, tokens: Tensor) -> Tensor:
    """A transformer block on tokens [B, h, w, C]."""
    size, inner = tokens.shape[1:3], block.norm1(tokens)
    if block.window_size > 0:
        windows, padded = window_partition(inner, block.window_size)
        seen = window_unpartition(_attention(block.attn, windows), block.window_size, padded, size)
    else:
        seen = _attention(block.attn, inner)
    tokens = tokens + seen
    result: Tensor = tokens + block.mlp(block.norm2(tokens))
    return result


def _attention(attention: Attention, tokens: Tensor) -> Tensor:
    """Multi-head attention with decomposed relative positions within [B, h, w, C]."""
    batch, height, width, _ = tokens.shape
    places, heads = height * width, attention.num_heads
    parts = attention.qkv(tokens).reshape(batch, places, 3, heads, -1).permute(2, 0, 3, 1, 4)
    queries, keys, values = parts.reshape(3, batch * heads, places, -1).unbind(0)
    rows = columns = None
    if attention.use_rel_pos:
        rows = get_rel_pos(height, height, attention.rel_pos_h)
        columns = get_rel_pos(width, width, attention.rel_pos_w)
    found, step = torch.empty_like(values), max(1, _CACHED // places**2)
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        asked = queries[some]
        weights = (asked * attention.scale) @ keys[some].transpose(-2, -1)
        if rows is not None and columns is not None:
            grid = asked.reshape(-1, height, width, asked.shape[-1])
            by_place = weights.view(-1, height, width, height, width)
            by_place += torch.einsum("bhwc,hkc->bhwk", grid, rows)[..., None]
            by_place += torch.einsum("bhwc,wkc->bhwk", grid, columns)[..., None, :]
        torch.softmax(weights, dim=-1, out=weights)
        torch.bmm(weights, values[some], out=found[some])
    found = found.view(batch, heads, height, width, -1).permute(0, 2, 3, 1, 4)
    result: Tensor = attention.proj(found.reshape(batch, height, width, -1))
    return result
