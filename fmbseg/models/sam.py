"""SAM: one encoding an image, point prompts (section 1.1) and automatic masks (section 1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn


def build_sam(config: Mapping[str, Any]) -> Sam:
    """A `segment_anything.modeling.Sam` with random weights.

    Args:
        config: the record `fmbseg/models/tiny/sam.json`: arguments of the image encoder, prompt
            encoder and mask decoder (sizes that must agree are given once), pixel mean and std.
    """
    encoder = dict(config["image_encoder"])
    decoder = dict(config["mask_decoder"])
    channels = encoder["out_chans"]
    grid = encoder["img_size"] // encoder["patch_size"]
    sam = Sam(
        image_encoder=ImageEncoderViT(norm_layer=partial(nn.LayerNorm, eps=1e-6), **encoder),
        prompt_encoder=PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(grid, grid),
            input_image_size=(encoder["img_size"], encoder["img_size"]),
            **config["prompt_encoder"],
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=channels,
            transformer=TwoWayTransformer(embedding_dim=channels, **decoder.pop("transformer")),
            **decoder,
        ),
        pixel_mean=list(config["pixel_mean"]),
        pixel_std=list(config["pixel_std"]),
    )
    return sam.eval()
