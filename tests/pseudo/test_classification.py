from __future__ import annotations

import numpy as np
import pytest
import torch

from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.classification import classify_masks, mask_features


def by_loop(dense: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over pixels, each split into a fine raster whose cells fall into one patch."""
    (h, w, _), (height, width) = dense.shape, mask.shape
    total = np.zeros(dense.shape[-1])
    for y in range(height):
        for x in range(width):
            if not mask[y, x]:
                continue
            for i in range(h):
                tall = min((i + 1) * height / h, y + 1) - max(i * height / h, y)
                for j in range(w):
                    wide = min((j + 1) * width / w, x + 1) - max(j * width / w, x)
                    if tall > 0 and wide > 0:
                        total += tall * wide * dense[i, j]
    return total / np.linalg.norm(total)


@pytest.mark.parametrize("size", [(8, 12), (11, 13), (4, 6), (3, 5), (17, 4)])
def test_area_weights_equal_a_plain_loop(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(4, 6, 5)).astype(np.float16)
    masks = rng.random((3, *size)) < 0.4
    features = mask_features(dense, masks)
    assert features.shape == (3, 5)
    assert features.dtype == np.float32
    for feature, mask in zip(features, masks, strict=True):
        np.testing.assert_allclose(feature, by_loop(dense.astype(np.float64), mask), atol=2e-6)


def test_a_feature_does_not_depend_on_the_other_masks() -> None:
    rng = np.random.default_rng(1)
    dense = rng.normal(size=(4, 4, 8)).astype(np.float16)
    masks = np.zeros((7, 19, 23), dtype=bool)
    for mask in masks:
        y, x = rng.integers(0, 15), rng.integers(0, 18)
        mask[y : y + 4, x : x + 5] = rng.random((4, 5)) < 0.7
    whole = mask_features(dense, masks)
    np.testing.assert_allclose(
        np.concatenate([mask_features(dense, [mask]) for mask in masks]), whole, atol=1e-6
    )


def test_an_empty_mask_has_no_direction() -> None:
    masks = np.zeros((1, 6, 6), dtype=bool)
    assert mask_features(np.ones((2, 2, 3)), masks).tolist() == [[0, 0, 0]]
    assert mask_features(np.ones((2, 2, 3)), masks[:0]).shape == (0, 3)


def text_of(rows: list[list[float]]) -> TextEmbeddings:
    queries = torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)
    return TextEmbeddings(queries, torch.arange(len(rows)), queries)


def test_only_detected_classes_are_candidates() -> None:
    text = text_of([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0, 1]])
    features = np.array([[1, 0, 0], [0, 0, 1]], dtype=np.float32)
    classes, similarity = classify_masks(features, text, np.array([1, 2]))
    assert classes[0] == 1  # class 0 fits better, but was not detected
    assert similarity[0] == pytest.approx(0.9 / np.hypot(0.9, 0.1))
    assert similarity[1] == pytest.approx(0.0)


def test_without_detections_masks_stay_unlabelled() -> None:
    classes, similarity = classify_masks(
        np.ones((2, 3), dtype=np.float32), text_of([[1, 0, 0]]), np.zeros(0, dtype=np.int64)
    )
    assert classes.tolist() == [255, 255]
    assert np.isnan(similarity).all()
