"""Patches that look alike to the frozen encoder share their similarities."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.inference.decision import Decision, decide
from fmbseg.inference.maps import Maps
from fmbseg.machine.device import choose_device
from fmbseg.models.backbone import image_features, load_backbone

# LPOSS has 0.95, 400 and 3 on several windows of DINO's. On development scenes, whose 256 patches
# are fewer than 400 and whose encoder has high cosines everywhere, that drowns everything: 15 mIoU,
# where these values have 50, without them 37.
SHARE = 0.8
NEIGHBOURS = 10
POWER = 8.0


class Propagation:
    """Similarities spread over the graph of the encoder's patches.

    Args:
        config: the sections evaluate, features and run are read.
        encodings: not used, the encoder is light.
    """

    def __init__(self, config: Config, encodings: Path | None) -> None:
        self.models = (config.features.encoder,)
        self._section = config.evaluate
        device = choose_device(config.run)
        self._encoder = load_backbone(config.features.encoder, device.device, device.dtype)

    def refine(
        self, image: Image.Image, maps: Maps, decision: Decision, words: Vocabulary
    ) -> Decision:
        """See `Refiner`; similarities are brought to the encoder's grid first."""
        features = image_features(image, self._section.short_side, self._encoder)
        grid = features.shape[0], features.shape[1]
        values = F.interpolate(maps.values[None], grid, mode="bilinear", antialias=True)[0]
        spread = propagate(features.flatten(0, 1), values.flatten(1).T).T
        refined = Maps(spread.reshape(-1, *grid), maps.classes)
        return decide(refined, (image.height, image.width), words, self._section)


@torch.no_grad()
def propagate(
    features: Tensor,
    values: Tensor,
    share: float = SHARE,
    neighbours: int = NEIGHBOURS,
    power: float = POWER,
) -> Tensor:
    """Label propagation over patches (LPOSS: Stojnic et al., CVPR 2025, arXiv 2503.19777).

    F = (1 - a) (I - a P)^-1 Y. P are the weights w_ij = max(0, cos_ij)^g between a patch and its
    nearest others, symmetric, each row divided by its sum. LPOSS divides by the roots of the sums
    of rows and columns; divided by rows alone, every result is a weighted mean of the given
    values and remains a cosine, so that the rules for backgrounds hold. Its spatial weights are
    left out.

    Args:
        features: [T, C] of the encoder's patches.
        values: [T, M].
        share: a, what a patch takes from others.
        neighbours: nearest others of a patch.
        power: g.

    Returns:
        [T, M] float32.
    """
    unit = F.normalize(features.float(), dim=-1)
    cosines = (unit @ unit.T).clamp_min(0.0).fill_diagonal_(0.0)
    best, places = cosines.topk(min(neighbours, len(cosines) - 1), dim=1)
    weights = torch.zeros_like(cosines).scatter_(1, places, best**power)
    weights = torch.maximum(weights, weights.T)
    weights /= weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
    system = torch.eye(len(weights), device=weights.device) - share * weights
    spread: Tensor = torch.linalg.solve(system, (1 - share) * values.float())
    return spread
