from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from torch import Tensor

from fmbseg.config import MasksSection
from fmbseg.errors import DataError
from fmbseg.models.sam import SamEncoding, SamModel, load_sam
from fmbseg.models.sam_decoder import SharedDecoder
from fmbseg.scenes.render import render_scene, scene_seed

# Nothing filtered: each test closes what it is about.
OPEN = MasksSection(
    points_per_side=8,
    min_predicted_iou=0.0,
    min_stability=0.0,
    stability_offset=0.5,
    max_box_iou=1.0,
    min_area=0.0,
    max_area=1.0,
)
FILTERS: dict[str, dict[str, float]] = {
    "predicted IoU": {"min_predicted_iou": 0.3},
    "stability": {"min_stability": 0.6},
    "duplicates": {"max_box_iou": 0.7},
    "all": {"min_predicted_iou": 0.02, "min_stability": 0.3, "max_box_iou": 0.95},
}


@pytest.fixture
def image(picture: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(picture)


@pytest.fixture
def encoding(sam: SamModel, image: npt.NDArray[np.uint8]) -> SamEncoding:
    return sam.encode(image)


@pytest.fixture
def memory_for_three(sam: SamModel) -> Iterator[list[int]]:
    """The decoder runs out of memory with more than three prompts; the batches it was given."""
    given: list[int] = []
    attend = SharedDecoder.attend

    def limited(
        decoder: SharedDecoder, image: Tensor, places: Tensor, prompts: Tensor
    ) -> tuple[Tensor, Tensor]:
        given.append(len(prompts))
        if given[-1] > 3:
            raise torch.OutOfMemoryError("injected")
        return attend(decoder, image, places, prompts)

    # Otherwise the decoder cuts a batch to what fits the processor's cache.
    with patch.object(SharedDecoder, "attend", limited), patch("fmbseg.models.sam._CACHED", 2**40):
        yield given


def test_out_of_memory_gives_what_fewer_prompts_at_once_give(
    sam: SamModel, encoding: SamEncoding, memory_for_three: list[int]
) -> None:
    height, width = encoding.original_size
    rng = np.random.default_rng(0)
    points = rng.uniform(0, min(height, width), (8, 5, 2))
    boxes = np.concatenate([points[:, 0] / 2, points[:, 0] / 2 + 20], axis=1)
    for predict, prompts in ((sam.predict_points, points), (sam.predict_boxes, boxes)):
        expected = predict(encoding, prompts, 2)
        memory_for_three.clear()
        found = predict(encoding, prompts, 8)
        assert memory_for_three == [8, 4, 2, 2, 2, 2]
        assert np.array_equal(found.masks, expected.masks)
        assert np.array_equal(found.predicted_iou, expected.predicted_iou)

    expected_masks = sam.automatic_masks(encoding, OPEN, 2)
    memory_for_three.clear()
    masks = sam.automatic_masks(encoding, OPEN, 64)
    assert memory_for_three[:6] == [64, 32, 16, 8, 4, 2] and set(memory_for_three[5:]) == {2}
    assert len(masks.masks) > 10
    for name in ("masks", "predicted_iou", "stability"):
        assert np.array_equal(getattr(masks, name), getattr(expected_masks, name))


@pytest.fixture
def rounding_encoder(sam: SamModel) -> Iterator[None]:
    """The stock classes encode images themselves: round their features as ours are."""

    def rounded(module: object, inputs: object, features: Tensor) -> Tensor:
        return features.half().float()

    hook = sam.module.image_encoder.register_forward_hook(rounded)
    yield
    hook.remove()


def _stock(sam: SamModel, section: MasksSection, batch_size: int) -> SamAutomaticMaskGenerator:
    return SamAutomaticMaskGenerator(
        sam.module,
        points_per_side=section.points_per_side,
        points_per_batch=batch_size,
        pred_iou_thresh=section.min_predicted_iou,
        stability_score_thresh=section.min_stability,
        stability_score_offset=section.stability_offset,
        box_nms_thresh=section.max_box_iou,
    )


def test_the_encoding_is_the_stock_predictors_rounded(
    sam: SamModel, image: npt.NDArray[np.uint8], encoding: SamEncoding
) -> None:
    predictor = SamPredictor(sam.module)
    predictor.set_image(image)
    assert encoding.features.dtype == np.float16
    np.testing.assert_array_equal(encoding.features, predictor.features[0].half().numpy())
    assert encoding.input_size == predictor.input_size == (154, 256)
    assert encoding.original_size == (90, 150)
    assert sam.encode(image).features.tobytes() == encoding.features.tobytes()


@pytest.mark.parametrize("count", [1, 5])
def test_point_prompts_give_the_stock_predictors_masks(
    sam: SamModel,
    image: npt.NDArray[np.uint8],
    encoding: SamEncoding,
    rounding_encoder: None,
    count: int,
) -> None:
    predictor = SamPredictor(sam.module)
    predictor.set_image(image)
    points = np.random.default_rng(0).uniform((0, 0), (150, 90), (7, count, 2))
    found = sam.predict_points(encoding, points, batch_size=1)
    together = sam.predict_points(encoding, points, batch_size=3)
    assert found.masks.shape == (7, 3, 90, 150) and found.masks.dtype == np.bool_
    assert 0.02 < found.masks.mean() < 0.98
    for prompt in range(7):
        masks, iou, _ = predictor.predict(points[prompt], np.ones(count, dtype=int))
        np.testing.assert_array_equal(found.masks[prompt], masks)
        np.testing.assert_allclose(found.predicted_iou[prompt], iou, rtol=1e-4)
        # Sums depend on the batch: a pixel on the border may turn.
        assert (together.masks[prompt] != masks).mean() < 1e-3
        np.testing.assert_allclose(together.predicted_iou[prompt], iou, rtol=1e-4)


def test_box_prompts_give_the_stock_predictors_masks(
    sam: SamModel, image: npt.NDArray[np.uint8], encoding: SamEncoding, rounding_encoder: None
) -> None:
    predictor = SamPredictor(sam.module)
    predictor.set_image(image)
    corners = np.random.default_rng(0).uniform((0, 0), (150, 90), (7, 2, 2))
    boxes = np.sort(corners, axis=1).reshape(7, 4)
    found = sam.predict_boxes(encoding, boxes, batch_size=1)
    together = sam.predict_boxes(encoding, boxes, batch_size=3)
    assert found.masks.shape == (7, 3, 90, 150) and found.masks.dtype == np.bool_
    assert 0.02 < found.masks.mean() < 0.98
    assert len({mask.tobytes() for mask in found.masks}) == 7
    for prompt in range(7):
        masks, iou, _ = predictor.predict(box=boxes[prompt])
        np.testing.assert_array_equal(found.masks[prompt], masks)
        np.testing.assert_allclose(found.predicted_iou[prompt], iou, rtol=1e-4)
        assert (together.masks[prompt] != masks).mean() < 1e-3
        np.testing.assert_allclose(together.predicted_iou[prompt], iou, rtol=1e-4)


def test_prompts_are_rounded_as_the_stock_predictor_rounds_them(
    sam: SamModel, image: npt.NDArray[np.uint8], encoding: SamEncoding
) -> None:
    given: list[Tensor] = []

    def keep(_: object, __: object, prompts: dict[str, Any]) -> None:
        given.append(prompts["boxes"] if prompts["points"] is None else prompts["points"][0])

    predictor = SamPredictor(sam.module)
    predictor.set_image(image)
    point, box = np.array([[100 / 3, 200 / 7]]), np.array([10 / 3, 20 / 7, 200 / 3, 400 / 7])
    hook = sam.module.prompt_encoder.register_forward_pre_hook(keep, with_kwargs=True)
    sam.predict_points(encoding, point[None])
    predictor.predict(point, np.ones(1, dtype=int))
    sam.predict_boxes(encoding, box[None])
    predictor.predict(box=box)
    hook.remove()
    for ours, stock in (given[:2], given[2:]):
        assert ours.dtype == stock.dtype == torch.float32
        assert torch.equal(ours.flatten(), stock.flatten())


@pytest.mark.parametrize("number", [5, 6, 7])
def test_rounding_the_encoding_hardly_moves_the_stock_predictors_masks(
    sam: SamModel, number: int
) -> None:
    scene = render_scene(scene_seed("development", number), size=(160, 128))
    encoding = sam.encode(scene.image)
    predictor = SamPredictor(sam.module)
    predictor.set_image(scene.image)
    assert not np.array_equal(encoding.features, predictor.features[0].numpy())  # it does round
    rng = np.random.default_rng(2)
    points = rng.uniform((0, 0), (160, 128), (20, 1, 2))
    boxes = np.sort(rng.uniform((0, 0), (160, 128), (20, 2, 2)), axis=1).reshape(20, 4)
    pointed, boxed = sam.predict_points(encoding, points), sam.predict_boxes(encoding, boxes)
    for prompt in range(20):
        for found, stock in (
            (pointed, predictor.predict(points[prompt], np.ones(1, dtype=int))),
            (boxed, predictor.predict(box=boxes[prompt])),
        ):
            masks, iou, _ = stock
            union = (found.masks[prompt] | masks).sum(axis=(1, 2))
            turned = (found.masks[prompt] != masks).sum(axis=(1, 2))
            # An IoU of 0.99; of a mask under 100 pixels one may turn.
            assert (turned <= np.maximum(1, 0.01 * union)).all()
            assert found.predicted_iou[prompt].argsort().tolist() == iou.argsort().tolist()


def test_prompts_of_another_shape_are_refused(sam: SamModel, encoding: SamEncoding) -> None:
    for boxes in (np.zeros(4), np.zeros((2, 2, 2)), np.zeros((3, 2))):
        with pytest.raises(DataError, match=r"give \[B, 4\], x0 y0 x1 y1 in pixels"):
            sam.predict_boxes(encoding, boxes)
    with pytest.raises(DataError, match="give x0 y0 x1 y1, not width and height"):
        sam.predict_boxes(encoding, np.array([[0.0, 0.0, 5.0, 5.0], [60.0, 40.0, 20.0, 50.0]]))
    for points in (np.zeros((5, 2)), np.zeros((1, 4)), np.zeros((1, 5, 3))):
        with pytest.raises(DataError, match=r"give \[B, P, 2\], x and y in pixels"):
            sam.predict_points(encoding, points)


def test_prompts_do_not_depend_on_their_batch(sam: SamModel, encoding: SamEncoding) -> None:
    points = np.random.default_rng(1).uniform((0, 0), (150, 90), (5, 2, 2))
    together = sam.predict_points(encoding, points)
    for prompt in range(5):
        alone = sam.predict_points(encoding, points[prompt : prompt + 1])
        np.testing.assert_allclose(
            alone.predicted_iou[0], together.predicted_iou[prompt], rtol=1e-4
        )
        assert (alone.masks[0] != together.masks[prompt]).mean() < 1e-3


def test_no_prompt_gives_no_mask(sam: SamModel, encoding: SamEncoding) -> None:
    for found in (
        sam.predict_points(encoding, np.zeros((0, 5, 2))),
        sam.predict_boxes(encoding, np.zeros((0, 4))),
    ):
        assert found.masks.shape == (0, 3, 90, 150)
        assert found.predicted_iou.shape == (0, 3)


@pytest.mark.parametrize("batch_size", [7, 64])
@pytest.mark.parametrize("change", [{}, *FILTERS.values()], ids=["none", *FILTERS])
def test_automatic_masks_are_the_stock_generators(
    sam: SamModel,
    image: npt.NDArray[np.uint8],
    encoding: SamEncoding,
    rounding_encoder: None,
    change: dict[str, float],
    batch_size: int,
) -> None:
    section = OPEN.model_copy(update=change)
    # An empty mask is no mask; the stock generator keeps some where no threshold is set.
    expected = [
        item for item in _stock(sam, section, batch_size).generate(image) if item["area"] > 0
    ]
    found = sam.automatic_masks(encoding, section, batch_size)
    assert len(expected) > 2
    np.testing.assert_array_equal(
        found.masks, np.array([item["segmentation"] for item in expected])
    )
    np.testing.assert_allclose(
        found.predicted_iou, [item["predicted_iou"] for item in expected], rtol=1e-4
    )
    # Sums are taken in another order: a pixel at the raised or lowered threshold may turn.
    np.testing.assert_allclose(
        found.stability, [item["stability_score"] for item in expected], rtol=1e-3
    )
    assert (np.diff(found.predicted_iou) <= 0).all()


def test_the_shipped_weights_give_the_stock_classes_masks_on_a_scene() -> None:
    sam = load_sam("tiny-sam")
    hook = sam.module.image_encoder.register_forward_hook(lambda *call: call[2].half().float())
    scene = render_scene(scene_seed("development", 5), size=(160, 128))
    encoding = sam.encode(scene.image)
    predictor = SamPredictor(sam.module)
    predictor.set_image(scene.image)
    points = np.array([[[40.5, 30.5], [80.5, 64.5]], [[150.5, 120.5], [10.5, 100.5]]])
    found = sam.predict_points(encoding, points)
    for prompt in range(2):
        masks, iou, _ = predictor.predict(points[prompt], np.ones(2, dtype=int))
        assert (found.masks[prompt] != masks).mean() < 1e-3
        np.testing.assert_allclose(found.predicted_iou[prompt], iou, rtol=1e-4)
    box = np.array([20.0, 30.0, 90.0, 110.0])
    masks, iou, _ = predictor.predict(box=box)
    boxed = sam.predict_boxes(encoding, box[None])
    assert (boxed.masks[0] != masks).mean() < 1e-3
    np.testing.assert_allclose(boxed.predicted_iou[0], iou, rtol=1e-4)
    # Thresholds that leave some masks and cut others.
    section = MasksSection(min_predicted_iou=0.6, min_stability=0.6)
    expected = [
        item
        for item in _stock(sam, section, 64).generate(scene.image)
        if section.min_area <= item["area"] / (160 * 128) <= section.max_area
    ]
    hook.remove()
    automatic = sam.automatic_masks(encoding, section)
    assert len(expected) >= 2
    np.testing.assert_array_equal(
        automatic.masks, np.array([item["segmentation"] for item in expected])
    )
    np.testing.assert_allclose(
        automatic.stability, [item["stability_score"] for item in expected], rtol=1e-6
    )


@pytest.mark.parametrize("change", FILTERS.values(), ids=FILTERS)
def test_each_filter_of_that_comparison_cuts_something(
    sam: SamModel, encoding: SamEncoding, change: dict[str, float]
) -> None:
    everything = sam.automatic_masks(encoding, OPEN)
    found = sam.automatic_masks(encoding, OPEN.model_copy(update=change))
    assert 2 < len(found.masks) < len(everything.masks) - 10


def test_masks_are_filtered_by_their_share_of_the_image(
    sam: SamModel, encoding: SamEncoding
) -> None:
    everything = sam.automatic_masks(encoding, OPEN)
    share = everything.masks.sum(axis=(1, 2)) / (90 * 150)
    low, high = np.quantile(share, [0.25, 0.75])
    section = OPEN.model_copy(update={"min_area": float(low), "max_area": float(high)})
    found = sam.automatic_masks(encoding, section)
    inside = (share >= low) & (share <= high)
    assert 0 < inside.sum() < len(share)
    np.testing.assert_array_equal(found.masks, everything.masks[inside])


def test_nothing_confident_gives_no_masks_of_the_right_shape(
    sam: SamModel, encoding: SamEncoding
) -> None:
    # Random weights predict IoUs far above 1; no configuration file may ask for these.
    for change in ({"min_predicted_iou": 1e6}, {"min_stability": 1.0, "stability_offset": 1e6}):
        found = sam.automatic_masks(encoding, OPEN.model_copy(update=change))
        assert found.masks.shape == (0, 90, 150) and found.masks.dtype == np.bool_
        assert found.predicted_iou.shape == found.stability.shape == (0,)


def test_automatic_masks_and_points_do_not_encode_again(
    sam: SamModel, image: npt.NDArray[np.uint8]
) -> None:
    calls: list[int] = []
    hook = sam.module.image_encoder.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    encoding = sam.encode(image)
    sam.predict_points(encoding, np.array([[[10.0, 10.0]]]))
    sam.automatic_masks(encoding, OPEN)
    hook.remove()
    assert len(calls) == 1


def test_upsampling_in_parts_changes_nothing(
    sam: SamModel, encoding: SamEncoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sam.automatic_masks(encoding, OPEN)
    points = np.array([[[30.0, 40.0], [100.0, 20.0]]])
    masks = sam.predict_points(encoding, points).masks
    monkeypatch.setattr("fmbseg.models.sam._LOGITS_AT_ONCE", 1)
    np.testing.assert_array_equal(sam.automatic_masks(encoding, OPEN).masks, whole.masks)
    np.testing.assert_array_equal(sam.predict_points(encoding, points).masks, masks)


def test_bfloat16_encodes_close_to_float32(
    image: npt.NDArray[np.uint8], encoding: SamEncoding
) -> None:
    half = load_sam("tiny-sam", dtype=torch.bfloat16)
    approximate = half.encode(image)
    assert approximate.features.dtype == np.float16
    difference = approximate.features.astype(float) - encoding.features.astype(float)
    assert 0 < np.abs(difference).mean() < 0.15 * np.abs(encoding.features.astype(float)).mean()


@pytest.mark.parametrize(
    "wrong", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))]
)
def test_what_is_not_an_rgb_image_is_refused(sam: SamModel, wrong: npt.NDArray[np.generic]) -> None:
    with pytest.raises(DataError, match=r"give uint8 \[H, W, 3\] RGB"):
        sam.encode(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["vit_b", "vit_h"])
def test_the_tiny_sam_has_the_published_ones_parts(sam: SamModel, name: str) -> None:
    with torch.device("meta"):
        published = sam_model_registry[name]()
    depth = len(published.image_encoder.blocks)

    def parts(names: list[str]) -> set[str]:
        return {".".join("0" if part.isdigit() else part for part in n.split(".")) for n in names}

    assert depth > len(sam.module.image_encoder.blocks)
    assert parts(list(sam.module.state_dict())) == parts(list(published.state_dict()))
