"""The models' modules and the tiny tokenizer, built from architecture records: random weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import open_clip
import timm
from open_clip.tokenizer import SimpleTokenizer
from torch import nn

from fmbseg.models import tiny

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


def build_clip(config: Mapping[str, Any]) -> open_clip.CLIP:
    """An `open_clip.CLIP` with random weights.

    Args:
        config: an open_clip model config: `embed_dim`, `vision_cfg`, `text_cfg`, `quick_gelu`.
    """
    return open_clip.CLIP(**config).eval()


def tiny_tokenizer() -> SimpleTokenizer:
    """The tokenizer of tiny-clip: the first 1,500 merges of CLIP's own, 2,014 tokens in all."""
    context_length = tiny.architecture("clip")["text_cfg"]["context_length"]
    return SimpleTokenizer(bpe_path=str(tiny.BPE_FILE), context_length=context_length)


def build_sam(config: Mapping[str, Any]) -> Sam:
    """A `segment_anything.modeling.Sam` with random weights.

    Args:
        config: the record `fmbseg/models/tiny/sam.json`: arguments of the image encoder, prompt
            encoder and mask decoder (sizes that must agree are given once), pixel mean and std.
    """
    # Here: whoever asks a trained head needs no SAM.
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

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


def build_encoder(config: Mapping[str, Any]) -> nn.Module:
    """An encoder of timm, with random weights unless `model_args` says otherwise.

    Args:
        config: `architecture` (timm's name) and `model_args` (for `timm.create_model`).
    """
    module: nn.Module = timm.create_model(config["architecture"], **config["model_args"])
    return module.eval()
