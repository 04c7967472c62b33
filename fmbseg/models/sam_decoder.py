"""SAM's mask decoder for many prompts of one image: what they share is computed once.

The same function of the same weights as `segment_anything`'s decoder, whose module it reads. There
all prompts carry a copy of the image through the first layer; here that layer's keys and values are
the image's own. The tokens of a prompt are few (7 for a point), and attention between an image and
few tokens is two narrow products: projections of all patches are folded into the tokens,

    (X Wq) (T Wk)^T = X (T Wk Wq^T)^T,    softmax(..) (T Wv) Wo = softmax(..) (T Wv Wo),

so that a product with every patch has as many columns as there are tokens, times heads. Sums are
then taken in another order: logits differ from the stock decoder's in the last bits of float32.
Masks are upscaled only where they are asked for, of prompts that are confident enough.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn


class SharedDecoder:
    """A decoder's weights, applied to prompts that share one image; without gradients.

    Args:
        module: the stock decoder, in evaluation mode.
    """

    def __init__(self, module: MaskDecoder) -> None:
        self._module = module
        self._transformer = module.transformer

    def attend(self, image: Tensor, places: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Let the tokens of each prompt and the image look at each other.

        Args:
            image: [P, C] patch features, row by row, the dense prompt added.
            places: [P, C] their position encoding.
            prompts: [B, n, C] embeddings of each prompt's points.

        Returns:
            tokens [B, 1 + m + n, C]: of the IoU, of the m masks, of the points; patches [B, P, C].
        """
        module, transformer = self._module, self._transformer
        output = torch.cat([module.iou_token.weight, module.mask_tokens.weight])
        asked = torch.cat([output.expand(len(prompts), -1, -1), prompts], dim=1)
        tokens, patches = asked, image[None]
        for layer in transformer.layers:
            tokens, patches = _layer(layer, tokens, asked, patches, places)
        found = _tokens_see(
            transformer.final_attn_token_to_image, tokens + asked, patches + places, patches
        )
        return transformer.norm_final_attn(tokens + found), patches

    def predicted_iou(self, tokens: Tensor) -> Tensor:
        """[B, m - 1]: how good each of a prompt's masks is thought to be; see `attend`."""
        iou: Tensor = self._module.iou_prediction_head(tokens[:, 0])[:, 1:]
        return iou

    def logits(
        self, tokens: Tensor, patches: Tensor, grid: tuple[int, int], wanted: Tensor
    ) -> Tensor:
        """[M, 4h, 4w] of the M wanted masks, prompt by prompt.

        Args:
            tokens: see `attend`.
            patches: the same.
            grid: (h, w) of the patches.
            wanted: [B, m - 1] bool, which of the masks that a prompt is ambiguous between.
        """
        module, asked = self._module, wanted.any(dim=1)
        if not asked.all():
            tokens, patches, wanted = tokens[asked], patches[asked], wanted[asked]
        count = len(tokens)
        first, norm, activation, second, last = module.output_upscaling
        channels = first.out_channels
        # Two by two pixels of each patch: kernel and stride are the same, so it is a product.
        pixels = 4 * patches.shape[1]
        fine = F.linear(patches, *_as_linear(first)).view(count, pixels, channels)
        fine = activation(F.layer_norm(fine, (channels,), norm.weight, norm.bias, norm.eps))
        finer = last(
            F.linear(fine, *_as_linear(second)).view(count, 4 * pixels, second.out_channels)
        )
        hyper = torch.stack(
            [
                head(tokens[:, 1 + index])
                for index, head in enumerate(module.output_hypernetworks_mlps)
                if index
            ],
            dim=1,
        )
        masks: Tensor = (hyper @ finer.transpose(1, 2))[wanted]
        height, width = grid
        # Of a patch the four pixels, of each of them again four.
        ordered = masks.view(-1, height, width, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return ordered.reshape(-1, 4 * height, 4 * width)


def _layer(
    layer: TwoWayAttentionBlock, tokens: Tensor, asked: Tensor, patches: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """One layer for tokens [B, n, C]; patches are [B, P, C], or [1, P, C] of all prompts."""
    if layer.skip_first_layer_pe:
        tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
    else:
        placed = tokens + asked
        tokens = tokens + layer.self_attn(q=placed, k=placed, v=tokens)
    tokens = layer.norm1(tokens)
    placed_patches = patches + places
    seen = _tokens_see(layer.cross_attn_token_to_image, tokens + asked, placed_patches, patches)
    tokens = layer.norm2(tokens + seen)
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    seen = _patches_see(layer.cross_attn_image_to_token, placed_patches, tokens + asked, tokens)
    return tokens, layer.norm4(seen.add_(patches))


def _tokens_see(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of tokens q [B, n, C] to patches k and v, [B, P, C] or [1, P, C] of all."""
    count, number, _ = q.shape
    heads, size = attention.num_heads, attention.internal_dim // attention.num_heads
    queries = attention.q_proj(q).view(count, number, heads, size) / math.sqrt(size)
    # The keys' bias adds the same to all patches of a softmax: it changes nothing.
    folded = torch.einsum("bnhd,hdc->bhnc", queries, _by_head(attention.k_proj.weight, heads))
    rows = folded.flatten(1, 2)
    if len(k) == 1:
        weights = (rows.flatten(0, 1) @ k[0].T).softmax(dim=-1)
        mean = (weights @ v[0]).view(count, heads, number, -1)
    else:
        weights = (rows @ k.transpose(1, 2)).softmax(dim=-1)
        mean = (weights @ v).view(count, heads, number, -1)
    values = torch.einsum("bhnc,hdc->bnhd", mean, _by_head(attention.v_proj.weight, heads))
    # Weights of a softmax sum to one: so does the bias.
    out: Tensor = attention.out_proj(values.flatten(2) + attention.v_proj.bias)
    return out


def _patches_see(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, P, C]: attention of patches q, [B, P, C] or [1, P, C] of all, to tokens [B, n, C]."""
    count, number, _ = k.shape
    heads, size = attention.num_heads, attention.internal_dim // attention.num_heads
    keys = attention.k_proj(k).view(count, number, heads, size) / math.sqrt(size)
    folded = torch.einsum("bnhd,hdc->bhnc", keys, _by_head(attention.q_proj.weight, heads))
    bias = torch.einsum("bnhd,hd->bhn", keys, attention.q_proj.bias.view(heads, size))
    rows = folded.flatten(1, 2)
    # [B, heads * n, P]: the few tokens stand outside, so that a softmax over them runs along
    # memory.
    if len(q) == 1:
        scores = torch.addmm(bias.reshape(-1, 1), rows.flatten(0, 1), q[0].T)
    else:
        scores = torch.baddbmm(bias.flatten(1)[..., None], rows, q.transpose(1, 2))
    weights = scores.view(count, heads, number, -1).softmax(dim=2).flatten(1, 2)
    values = attention.v_proj(v).view(count, number, heads, size)
    outward = attention.out_proj.weight.view(-1, heads, size)
    folded_values = torch.einsum("bnhd,chd->bhnc", values, outward).flatten(1, 2)
    return torch.baddbmm(attention.out_proj.bias, weights.transpose(1, 2), folded_values)


def _as_linear(convolution: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Weight [4 * C', C] and bias [4 * C'] of 2 x 2 pixels for each one, row by row."""
    assert convolution.bias is not None
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return weight, convolution.bias.repeat(4)


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """The weight [heads * d, C] of a projection as [heads, d, C]."""
    return weight.view(heads, -1, weight.shape[1])
