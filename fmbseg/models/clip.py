"""CLIP: text embeddings, global window embeddings and the dense map of sections 1.1 and 1.2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import open_clip
from open_clip.tokenizer import SimpleTokenizer

from fmbseg.models import tiny


def build_clip(config: Mapping[str, Any]) -> open_clip.CLIP:
    """An `open_clip.CLIP` with random weights.

    Args:
        config: an open_clip model config: `embed_dim`, `vision_cfg`, `text_cfg`, `quick_gelu`.
    """
    model = open_clip.CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=dict(config["vision_cfg"]),
        text_cfg=dict(config["text_cfg"]),
        quick_gelu=bool(config.get("quick_gelu", False)),
    )
    return model.eval()


def tiny_tokenizer() -> SimpleTokenizer:
    """The tokenizer of tiny-clip: the first 1,500 merges of CLIP's own, 2,014 tokens in all."""
    context_length = tiny.architecture("clip")["text_cfg"]["context_length"]
    return SimpleTokenizer(bpe_path=str(tiny.BPE_FILE), context_length=context_length)
