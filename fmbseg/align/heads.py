"""Alignment heads: patch features of the frozen encoder -> CLIP's text space (stage 2).

The transformer block is the method's choice, the MLP and the linear map its ablations. A head has a
trunk and, for each vocabulary it is trained on, a projection into the text space: a patch of grass
is `grass` in one vocabulary and `terrain` in another, whose texts lie apart. A head is made by a
function (in_dim, out_dim, attention_heads) -> (trunk, projection), modules from [N, T, C] to
[N, T, C'] and on to [..., D]; `HEADS` has it under its name in `align.head`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, get_args

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from fmbseg.align.record import HeadConfig
from fmbseg.config import HeadName
from fmbseg.errors import ConfigError

_MLP_RATIO = 4  # hidden units for each input, in the MLP and in the block's own


Parts = tuple[nn.Module, nn.Module]


def transformer(in_dim: int, out_dim: int, attention_heads: int) -> Parts:
    """One pre-norm block with self-attention over the patches; then norm and projection.

    Raises:
        ConfigError: C is not a multiple of the attention heads.
    """
    if in_dim % attention_heads:
        raise ConfigError(
            f"align.attention_heads is {attention_heads}: take a divisor of the encoder's "
            f"{in_dim} channels"
        )
    # No position embedding: the encoder's features carry their place already, and without one the
    # head takes any grid, also those it was not trained on.
    block = PatchBlock(in_dim, attention_heads, mlp_ratio=_MLP_RATIO, qkv_bias=True)
    return block, nn.Sequential(nn.LayerNorm(in_dim), nn.Linear(in_dim, out_dim))


def mlp(in_dim: int, out_dim: int, attention_heads: int) -> Parts:
    """One hidden layer with GELU, patch by patch."""
    hidden = _MLP_RATIO * in_dim
    return nn.Sequential(nn.Linear(in_dim, hidden), nn.GELU()), nn.Linear(hidden, out_dim)


def linear(in_dim: int, out_dim: int, attention_heads: int) -> Parts:
    """One linear map, patch by patch."""
    return nn.Identity(), nn.Linear(in_dim, out_dim)


class PatchBlock(Block):
    """timm's block, which can also be asked for some of its tokens."""

    def at(self, groups: Sequence[Tensor], wanted: Tensor) -> Tensor:
        """What `forward` gives for some tokens: all have keys and values, these alone the rest.

        Args:
            groups: [n, T, C] each.
            wanted: [S] int64 ascending, rows of all groups' tokens [M, C] below each other.

        Returns:
            [S, C].
        """
        own: Any = self  # torch types a module's parts loosely
        attention = own.attn
        channels = groups[0].shape[-1]
        tokens = torch.cat([group.flatten(0, 1) for group in groups])
        normed = own.norm1(tokens)
        weight, bias = attention.qkv.weight, attention.qkv.bias
        query = F.linear(normed[wanted], weight[:channels], bias[:channels])
        key_value = F.linear(normed, weight[channels:], bias[channels:])
        shapes = [(group.shape[0], group.shape[1]) for group in groups]
        attended = _attended(query, key_value, shapes, wanted, attention.num_heads)
        some = tokens[wanted] + attention.proj(attended)
        found: Tensor = some + own.mlp(own.norm2(some))
        return found


def _attended(
    query: Tensor, key_value: Tensor, shapes: Sequence[tuple[int, int]], wanted: Tensor, heads: int
) -> Tensor:
    """Attention of some tokens [S, C] within their own picture: [S, C].

    Args:
        query: [S, C].
        key_value: [M, 2 C] of all tokens.
        shapes: (n, T) of the groups of pictures.
        wanted: [S] int64 ascending, the rows of the queries.
        heads: of the attention.
    """
    found, first = [], 0
    bounds = torch.tensor([0, *(n * count for n, count in shapes)]).cumsum(0)
    splits = torch.searchsorted(wanted.cpu(), bounds).tolist()
    for (number, count), start, stop in zip(shapes, splits, splits[1:], strict=False):
        if start < stop:
            picture = (wanted[start:stop] - first) // count
            each = torch.bincount(picture, minlength=number)
            # Pictures have different numbers of queries: rows beyond a picture's own stay unused.
            place = (
                torch.arange(stop - start, device=wanted.device) - (each.cumsum(0) - each)[picture]
            )
            asked = query.new_zeros(number, int(each.max()), query.shape[1])
            asked[picture, place] = query[start:stop]
            keys = key_value[first : first + number * count].view(number, count, 2, heads, -1)
            key, value = keys.permute(2, 0, 3, 1, 4)
            split = asked.view(number, asked.shape[1], heads, -1).transpose(1, 2)
            answered = F.scaled_dot_product_attention(split, key, value)
            found.append(answered.transpose(1, 2).flatten(2)[picture, place])
        first += number * count
    return torch.cat(found)


HEADS: Mapping[HeadName, Callable[[int, int, int], Parts]] = {
    "transformer": transformer,
    "mlp": mlp,
    "linear": linear,
}
assert tuple(HEADS) == get_args(HeadName)


class AlignmentHead(nn.Module):
    """Maps patch features to unit vectors in the text space.

    Its weights are random, drawn from torch's global generator.

    Attributes:
        config: its form.

    Raises:
        ConfigError: no such head, or it does not take the features.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        if config.kind not in HEADS:
            raise ConfigError(f"unknown head {config.kind!r}: use one of {', '.join(HEADS)}")
        self.config = config
        self.trunk, projection = HEADS[config.kind](config.in_dim, config.out_dim, config.heads)
        # All begin alike.
        self.projections = nn.ModuleList(deepcopy(projection) for _ in range(config.projections))

    def forward(self, features: Tensor, projection: int = 0) -> Tensor:
        """Map the patches of each image.

        Args:
            features: [N, h, w, C] or [N, T, C], floating point; attention sees one image at a
                time, all its patches.
            projection: which of them.

        Returns:
            [N, h, w, D] or [N, T, D] float32, unit.
        """
        projected = self.project(self.tokens(features), projection)
        return projected.view(*features.shape[:-1], -1)

    def tokens(self, features: Tensor) -> Tensor:
        """The trunk alone: features as `forward` takes them -> [N, T, C']."""
        tokens: Tensor = self.trunk(features.flatten(1, -2))
        return tokens

    def tokens_at(self, groups: Sequence[Tensor], wanted: Tensor) -> Tensor:
        """The trunk for some patches alone: what `tokens` gives there, up to rounding.

        A loss that looks at few patches of a picture needs no more; the others only say what there
        is to look at.

        Args:
            groups: features [n, h, w, C] of pictures with one grid each, floating point.
            wanted: [S] int64 ascending: patches, counted picture by picture over all groups.

        Returns:
            [S, C'].
        """
        found: Tensor
        if isinstance(self.trunk, PatchBlock):
            found = self.trunk.at([group.flatten(1, -2) for group in groups], wanted)
        else:
            patches = torch.cat([group.flatten(0, -2) for group in groups])
            found = self.trunk(patches[wanted])
        return found

    def project(self, tokens: Tensor, projection: int) -> Tensor:
        """A projection alone: tokens [..., C'] -> [..., D] float32, unit."""
        projected: Tensor = self.projections[projection](tokens)
        return F.normalize(projected.float(), dim=-1)


def seeded_head(config: HeadConfig, seed: int) -> AlignmentHead:
    """A head with the random weights of a seed; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AlignmentHead(config)
