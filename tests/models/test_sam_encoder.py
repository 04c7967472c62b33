"""SAM's image encoder in parts: the stock encoder's function."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from fmbseg.models import sam_encoder
from fmbseg.models.sam import SamModel, load_sam
from fmbseg.models.sam_encoder import PartedEncoder
from fmbseg.scenes.render import render_scene, scene_seed


@pytest.mark.parametrize("part", [1, 3 * 25**2, 2**30])
@pytest.mark.parametrize(
    ("window", "relative", "absolute"), [(0, True, True), (5, True, False), (5, False, True)]
)
def test_parts_give_what_the_stock_encoder_gives(
    part: int, window: int, relative: bool, absolute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of 5 do not fit 8 patches: they are padded. Batches, and parts of any size."""
    torch.manual_seed(0)
    stock = ImageEncoderViT(
        img_size=64,
        patch_size=8,
        embed_dim=24,
        depth=3,
        num_heads=4,
        out_chans=16,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_abs_pos=absolute,
        use_rel_pos=relative,
        window_size=window,
        global_attn_indexes=(1,),
    ).eval()
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    monkeypatch.setattr(sam_encoder, "_CACHED", part)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = stock(images)
        found = PartedEncoder(stock)(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.std()))


def test_scenes_are_encoded_as_by_the_stock_encoder() -> None:
    sam = load_sam("tiny-sam")
    assert isinstance(sam._encoder, PartedEncoder)
    image = render_scene(scene_seed("development", 11), size=(256, 192)).image
    found = sam.encode(image).features
    sam._encoder = sam.module.image_encoder
    expected = sam.encode(image).features
    # Where they differ at all, then by one step of float16.
    np.testing.assert_allclose(found, expected, rtol=2**-10, atol=2**-14)
    assert (found == expected).mean() > 0.999


def test_half_precision_is_left_to_the_stock_encoder() -> None:
    module = load_sam("tiny-sam").module
    assert SamModel(module, dtype=torch.bfloat16)._encoder is module.image_encoder
