"""Alignment heads: patch features of the frozen encoder -> CLIP's text space (stage 2).

The transformer block is the method's choice, the MLP and the linear map its ablations.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from fmbseg.errors import ConfigError

HeadKind = Literal["transformer", "mlp", "linear"]

_MLP_RATIO = 4  # hidden units for each input, in the MLP and in the block's own


@dataclass(frozen=True)
class HeadConfig:
    """What decides a head's form.

    Attributes:
        kind: "transformer", "mlp" or "linear".
        in_dim: C, channels of the encoder's features.
        out_dim: D, dimension of the text space.
        heads: attention heads of the transformer block; the other kinds have none.
    """

    kind: HeadKind
    in_dim: int
    out_dim: int
    heads: int

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


class AlignmentHead(nn.Module):
    """Maps patch features to unit vectors in the text space.

    Attributes:
        config: its form.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        width, out = config.in_dim, config.out_dim
        self.mapping: nn.Module
        if config.kind == "transformer":
            # No position embedding: the encoder's features carry their place already, and without
            # one the head takes any grid, also those it was not trained on.
            self.mapping = nn.Sequential(
                Block(width, config.heads, mlp_ratio=_MLP_RATIO, qkv_bias=True),
                nn.LayerNorm(width),
                nn.Linear(width, out),
            )
        elif config.kind == "mlp":
            hidden = _MLP_RATIO * width
            self.mapping = nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out)
            )
        else:
            self.mapping = nn.Linear(width, out)

    def forward(self, features: Tensor) -> Tensor:
        """Map the patches of each image.

        Args:
            features: [N, h, w, C] or [N, T, C], floating point; attention sees one image at a
                time, all its patches.

        Returns:
            [N, h, w, D] or [N, T, D] float32, unit.
        """
        tokens = features.flatten(1, -2)
        mapped: Tensor = self.mapping(tokens)
        return F.normalize(mapped.float(), dim=-1).view(*features.shape[:-1], -1)


def build_head(kind: HeadKind, in_dim: int, out_dim: int, heads: int = 4) -> AlignmentHead:
    """A head with random weights, drawn from torch's global generator.

    Args:
        kind: "transformer" (one pre-norm block, then norm and projection), "mlp" (GELU) or
            "linear".
        in_dim: C, channels of the encoder's features.
        out_dim: D, dimension of the text space.
        heads: attention heads of the transformer block.

    Raises:
        ConfigError: unknown kind, or C is not a multiple of the attention heads.
    """
    if kind not in ("transformer", "mlp", "linear"):
        raise ConfigError(f"unknown head {kind!r}: use transformer, mlp or linear")
    if kind == "transformer" and in_dim % heads:
        raise ConfigError(
            f"align.attention_heads is {heads}: take a divisor of the encoder's {in_dim} channels"
        )
    return AlignmentHead(HeadConfig(kind, in_dim, out_dim, heads))


def seeded_head(config: HeadConfig, seed: int) -> AlignmentHead:
    """A head with the random weights of a seed; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_head(config.kind, config.in_dim, config.out_dim, config.heads)
