"""CLIP's patches with another self-attention in its last block; nothing is trained.

The formulas are those of `fmbseg.models.dense`, windows and protocols those of MaskCLIP here.
"""

from __future__ import annotations

from fmbseg.config import Dense
from fmbseg.evaluate.methods.maskclip import MaskClip


class SClip(MaskClip):
    """Correlative self-attention (Wang, Mei, Yuille, ECCV 2024)."""

    variant: Dense = "sclip"


class ClearClip(MaskClip):
    """Query-query attention, no residual, no MLP (Lan et al., ECCV 2024)."""

    variant: Dense = "clearclip"


class NaClip(MaskClip):
    """Key-key attention to neighbours (Hajimiri et al., WACV 2025)."""

    variant: Dense = "naclip"
