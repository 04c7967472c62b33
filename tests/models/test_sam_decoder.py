"""The decoder that shares an image among prompts, held against segment_anything's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from torch import Tensor

from fmbseg.config import MasksSection
from fmbseg.models.sam import SamModel, load_sam
from fmbseg.models.sam_decoder import SharedDecoder
from fmbseg.pseudo.tables import encode_masks
from fmbseg.scenes.render import render_scene, scene_seed


@pytest.fixture
def prompted(sam: SamModel) -> tuple[Tensor, Tensor, Tensor]:
    """An image's features [1, C, h, w], position encodings alike, and embeddings of 5 prompts."""
    encoder = sam.module.prompt_encoder
    height, width = encoder.image_embedding_size
    features = torch.randn(1, encoder.embed_dim, height, width)
    return features, encoder.get_dense_pe(), torch.randn(5, 3, encoder.embed_dim)


def test_it_is_the_stock_decoder_but_for_the_order_of_sums(
    sam: SamModel, prompted: tuple[Tensor, Tensor, Tensor]
) -> None:
    features, places, prompts = prompted
    with torch.no_grad():
        logits, iou = sam.module.mask_decoder(
            image_embeddings=features,
            image_pe=places,
            sparse_prompt_embeddings=prompts,
            dense_prompt_embeddings=torch.zeros_like(features).expand(5, -1, -1, -1),
            multimask_output=True,
        )
        decoder = SharedDecoder(sam.module.mask_decoder)
        flat = [each[0].flatten(1).T.contiguous() for each in (features, places)]
        tokens, patches = decoder.attend(*flat, prompts)
        every = torch.ones(5, 3, dtype=torch.bool)
        found = decoder.logits(tokens, patches, features.shape[-2:], every)
        wanted = every.clone()
        wanted[1], wanted[3, 2] = False, False
        some = decoder.logits(tokens, patches, features.shape[-2:], wanted)
    spread = float(logits.std())
    assert spread > 0
    torch.testing.assert_close(decoder.predicted_iou(tokens), iou, rtol=1e-4, atol=1e-5)
    expected = logits.flatten(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * spread)
    torch.testing.assert_close(some, expected[wanted.flatten()], rtol=0, atol=2e-5 * spread)


@pytest.mark.parametrize("size", [(160, 128), (256, 192), (331, 200)])
def test_masks_of_scenes_have_the_stock_classes_run_lengths(size: tuple[int, int]) -> None:
    sam = load_sam("tiny-sam")
    hook = sam.module.image_encoder.register_forward_hook(lambda *call: call[2].half().float())
    section = MasksSection(points_per_side=6, min_predicted_iou=0.5, min_stability=0.6)
    generator = SamAutomaticMaskGenerator(
        sam.module,
        points_per_side=6,
        pred_iou_thresh=0.5,
        stability_score_thresh=0.6,
        stability_score_offset=section.stability_offset,
        box_nms_thresh=section.max_box_iou,
        output_mode="coco_rle",
    )
    image = render_scene(scene_seed("development", 11), size=size).image
    pixels = size[0] * size[1]
    expected = [
        each["segmentation"]["counts"]
        for each in generator.generate(image)
        if section.min_area * pixels <= each["area"] <= section.max_area * pixels
    ]
    encoding = sam.encode(image)
    assert len(expected) > 1
    assert encode_masks(sam.automatic_masks(encoding, section).masks) == expected
    predictor = SamPredictor(sam.module)
    predictor.set_image(image)
    points = np.random.default_rng(0).uniform((0, 0), size, (3, 5, 2))
    found = sam.predict_points(encoding, points)
    hook.remove()
    for prompt, masks in zip(points, found.masks, strict=True):
        stock, _, _ = predictor.predict(prompt, np.ones(5, dtype=int))
        assert encode_masks(masks) == encode_masks(stock)
