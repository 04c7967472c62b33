"""CLIP's last block over a whole image: the windows' patches joined on one grid, any attention.

Each function of this module gives the attention that one published method puts in the place of
CLIP's own. What follows is the same for all: every patch takes the values it attends to, then the
output projection, without residual and MLP (ClearCLIP), and the tower's norm and projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fmbseg.models.dense import Grid, neighbourhood

# ProxyCLIP's own values (Lan et al., ECCV 2024): a patch looks at those whose cosine is
# above BETA times the mean cosine, and GAMMA times the distance to it is the logit.
PROXY_BETA, PROXY_GAMMA = 1.2, 3.0
# CorrCLIP's temperature (Zhang et al., arXiv 2411.10086): its logits are this times the cosines.
SCOPE_SCALE = 4.0


@dataclass(frozen=True)
class LastBlock:
    """The last attention of an image, over all its windows.

    Where windows overlap, queries, keys and values are their mean (OV-Stitcher: Moon, Oh, Ro,
    arXiv 2604.08110). The windows' class tokens are left out.

    Attributes:
        visual: `open_clip.CLIP.visual`, of width C.
        joint: [h, w, 3 * C] float32, queries, keys and values of the image's patches.
    """

    visual: Any
    joint: Tensor

    @property
    def grid(self) -> Grid:
        """(h, w) patches."""
        return self.joint.shape[0], self.joint.shape[1]

    @torch.no_grad()
    def stitched(self) -> Tensor:
        """Each patch of the image looks at all with a like key, near ones more: [heads, T, T].

        softmax(k k^T / sqrt(d) + g), the attention of NACLIP, over the whole image. On development
        scenes it is ahead of q q^T (ClearCLIP) and of k k^T alone, with g and without.
        """
        heads = self._heads(self._part(1))
        near = neighbourhood(self.grid, heads.device)
        attention: Tensor = (heads @ heads.mT / heads.shape[-1] ** 0.5 + near).softmax(dim=-1)
        return attention

    @torch.no_grad()
    def attend(self, attention: Tensor, grid: Grid) -> Tensor:
        """Patch embeddings in CLIP's shared space.

        Args:
            attention: [T, T] or [heads, T, T], rows that add up to 1.
            grid: (h, w) of its T = h * w patches; values are brought there (bilinear).

        Returns:
            [h, w, D] float32, unit.
        """
        values = self._part(2)
        if grid != self.grid:
            maps = values.permute(2, 0, 1)[None]
            values = F.interpolate(maps, grid, mode="bilinear")[0].permute(1, 2, 0)
        mixed = attention @ self._heads(values)
        patches = self._block.attn.out_proj(mixed.transpose(0, 1).flatten(1))
        embedded = self.visual.ln_post(self._block.ls_1(patches)) @ self.visual.proj
        return F.normalize(embedded, dim=-1).view(*grid, -1)

    @property
    def _block(self) -> Any:
        return self.visual.transformer.resblocks[-1]

    def _part(self, index: int) -> Tensor:
        return self.joint.chunk(3, dim=-1)[index]

    def _heads(self, part: Tensor) -> Tensor:
        """[h, w, C] -> [heads, T, C / heads]."""
        tokens = part.reshape(part.shape[0] * part.shape[1], self._block.attn.num_heads, -1)
        return tokens.transpose(0, 1)


def proxy_attention(
    features: Tensor, beta: float = PROXY_BETA, gamma: float = PROXY_GAMMA
) -> Tensor:
    """Attention by another encoder's cosines (ProxyCLIP: Lan et al., ECCV 2024, arXiv 2408.04883).

    softmax over j of gamma * (s_ij - beta * mean(s)), where that is negative j is left out. A
    patch is always among those it looks at, also where its own cosine of 1 would be left out.

    Args:
        features: [T, C] of the encoder's patches.
        beta: threshold, times the mean of all cosines.
        gamma: inverse temperature.

    Returns:
        [T, T], rows that add up to 1.
    """
    cosines = _cosines(features)
    logits = gamma * (cosines - beta * cosines.mean())
    return _softmax_within(logits, logits >= 0)


def scoped_attention(features: Tensor, regions: Tensor, scale: float = SCOPE_SCALE) -> Tensor:
    """Attention within masks (CorrCLIP: Zhang et al., arXiv 2411.10086, scope and value parts).

    softmax over j of scale * s_ij, over the patches j of i's own region. Between a patch under no
    mask and any other one, where the cosine is above the mean of all.

    Args:
        features: [T, C] of the encoder's patches.
        regions: [T] int64, the region of each; 0: under no mask.
        scale: inverse temperature.

    Returns:
        [T, T], rows that add up to 1.
    """
    cosines = _cosines(features)
    same = (regions[:, None] == regions[None]) & (regions[:, None] > 0)
    loose = (regions[:, None] == 0) | (regions[None] == 0)
    return _softmax_within(scale * cosines, same | (loose & (cosines > cosines.mean())))


def _cosines(features: Tensor) -> Tensor:
    unit = F.normalize(features, dim=-1)
    return unit @ unit.T


def _softmax_within(logits: Tensor, scope: Tensor) -> Tensor:
    # Where all cosines are alike, the mean is above every one of them: a row must not be empty.
    scope = scope | torch.eye(len(scope), dtype=torch.bool, device=scope.device)
    return logits.masked_fill(~scope, float("-inf")).softmax(dim=-1)
