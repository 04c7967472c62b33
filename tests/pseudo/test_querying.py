from __future__ import annotations

import numpy as np
import pytest
import torch

from fmbseg.models.mask_model import PromptMasks
from fmbseg.models.sam import load_sam
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.querying import choose_masks, query_masks, query_points


def one_hot_text(classes: int) -> TextEmbeddings:
    eye = torch.eye(classes)
    return TextEmbeddings(eye, torch.arange(classes), eye)


def test_points_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    dense = rng.random((5, 7, 4)).astype(np.float16)
    classes = np.array([1, 3])
    width, height = 101, 66

    points = query_points(dense, one_hot_text(4), classes, 3, (width, height))

    assert points.shape == (2, 3, 2)
    assert points.dtype == np.float32
    for row, index in enumerate(classes):
        ranked = sorted(
            ((-float(dense[i, j, index]), i, j) for i in range(5) for j in range(7)),
        )
        for place, (_, i, j) in enumerate(ranked[:3]):
            expected = ((j + 0.5) * width / 7, (i + 0.5) * height / 5)
            assert points[row, place] == pytest.approx(expected, rel=1e-6)


def test_of_equal_patches_the_first_in_reading_order_comes_first() -> None:
    points = query_points(np.ones((2, 3, 2)), one_hot_text(2), np.array([0]), 4, (3, 2))
    assert points[0].tolist() == [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5]]


def test_a_small_map_gives_as_many_points_as_patches() -> None:
    points = query_points(np.ones((1, 2, 2)), one_hot_text(2), np.array([0, 1]), 5, (20, 10))
    assert points.shape == (2, 2, 2)


def test_no_class_gives_no_points() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert query_points(np.ones((2, 2, 3)), one_hot_text(3), none, 5, (8, 8)).shape == (0, 4, 2)


def test_most_confident_mask_is_chosen() -> None:
    masks = np.zeros((2, 3, 4, 5), dtype=np.bool_)
    masks[0, 2, 1, 1] = masks[1, 0, 3, 4] = True
    iou = np.array([[0.1, 0.2, 0.9], [0.7, 0.7, 0.1]], dtype=np.float32)
    best, confidence = choose_masks(PromptMasks(masks, iou))
    assert best.shape == (2, 4, 5)
    assert best[0, 1, 1]
    assert best[1, 3, 4]  # of equals the first
    assert confidence.tolist() == pytest.approx([0.9, 0.7])


def test_masks_of_classes_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(1)
    sam = load_sam("tiny-sam", torch.device("cpu"), torch.float32)
    encoding = sam.encode(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8))
    points = (rng.random((5, 4, 2)) * (90, 70)).astype(np.float32)

    masks, iou = query_masks(sam, encoding, points, 64)
    single, single_iou = query_masks(sam, encoding, points, 1)

    assert masks.shape == (5, 70, 90)
    assert masks.dtype == np.bool_
    np.testing.assert_allclose(iou, single_iou, atol=1e-5)
    assert (masks != single).mean() < 1e-3
    stock = sam.predict_points(encoding, points)
    chosen, confidence = choose_masks(stock)
    assert np.array_equal(masks, chosen)
    assert np.array_equal(iou, confidence)


def test_no_points_give_no_masks() -> None:
    sam = load_sam("tiny-sam", torch.device("cpu"), torch.float32)
    encoding = sam.encode(np.zeros((64, 48, 3), dtype=np.uint8))
    masks, iou = query_masks(sam, encoding, np.zeros((0, 5, 2), dtype=np.float32), 8)
    assert masks.shape == (0, 64, 48)
    assert iou.shape == (0,)
