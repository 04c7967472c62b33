"""The frozen tiny encoder as a teacher of the other two models' image towers.

A plain vision transformer of this size learns far too slowly on two cores from captions or masks
alone; predicting the features of an encoder that already separates objects gets it off the ground.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmbseg.models.backbone import load_backbone
from fmbseg.models.timm_features import patch_features
from fmbseg.models.tiny import FOLDER


class Teacher(nn.Module):
    """Asks tokens of a model in training for the encoder's features, standardised over images.

    Only the map from tokens to features is trained, and it is not part of the model shipped.
    """

    def __init__(self, width: int, images: Tensor) -> None:
        """`width`: of the tokens; `images` [N, 3, H, W] in -1..1: mean and spread are theirs."""
        super().__init__()
        # The one that `loop.origin` has in a state, whatever FMBSEG_WEIGHTS names.
        backbone = load_backbone("tiny-encoder", weights_dir=FOLDER)
        self._frozen = (backbone.module,)  # in a tuple: neither trained nor saved with the rest
        seen = self._features(images)
        self._mean, self._std = seen.mean((0, 1)), seen.std((0, 1))
        self.guess = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, backbone.dim))

    def forward(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """1 - cosine of the guess and the features: tokens [N, P, width] -> [N, P].

        `pixels` [N, 3, H, W] in -1..1, of P patches.
        """
        features = (self._features(pixels) - self._mean) / self._std
        return 1 - F.cosine_similarity(self.guess(tokens).float(), features, dim=-1)

    @torch.no_grad()
    def _features(self, pixels: Tensor) -> Tensor:
        return patch_features(self._frozen[0], pixels).flatten(2).transpose(1, 2).float()
