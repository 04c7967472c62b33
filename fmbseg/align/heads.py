"""Alignment heads: patch features of the frozen encoder -> CLIP's text space (stage 2).

The transformer block is the method's choice, the MLP and the linear map its ablations. A head has a
trunk and, for each vocabulary it is trained on, a projection into the text space: a patch of grass
is `grass` in one vocabulary and `terrain` in another, whose texts lie apart. A head is made by a
function (in_dim, out_dim, attention_heads) -> (trunk, projection), modules from [N, T, C] to
[N, T, C'] and on to [..., D]; `HEADS` has it under its name in `align.head`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import get_args

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
    block = Block(in_dim, attention_heads, mlp_ratio=_MLP_RATIO, qkv_bias=True)
    return block, nn.Sequential(nn.LayerNorm(in_dim), nn.Linear(in_dim, out_dim))


def mlp(in_dim: int, out_dim: int, attention_heads: int) -> Parts:
    """One hidden layer with GELU, patch by patch."""
    hidden = _MLP_RATIO * in_dim
    return nn.Sequential(nn.Linear(in_dim, hidden), nn.GELU()), nn.Linear(hidden, out_dim)


def linear(in_dim: int, out_dim: int, attention_heads: int) -> Parts:
    """One linear map, patch by patch."""
    return nn.Identity(), nn.Linear(in_dim, out_dim)


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

    def project(self, tokens: Tensor, projection: int) -> Tensor:
        """A projection alone: tokens [..., C'] -> [..., D] float32, unit."""
        projected: Tensor = self.projections[projection](tokens)
        return F.normalize(projected.float(), dim=-1)


def seeded_head(config: HeadConfig, seed: int) -> AlignmentHead:
    """A head with the random weights of a seed; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AlignmentHead(config)
