"""The frozen self-supervised encoder whose patch features stage 2 aligns with the text space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer


def build_encoder(config: Mapping[str, Any]) -> VisionTransformer:
    """A timm vision transformer with random weights.

    Args:
        config: `architecture` (timm's name) and `model_args` (arguments of its class).
    """
    model = timm.create_model(
        config["architecture"], pretrained=False, **dict(config["model_args"])
    )
    return model.eval()
