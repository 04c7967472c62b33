"""Patch labels against a plain loop over finely subdivided pixels."""

from __future__ import annotations

from math import gcd

import numpy as np
import numpy.typing as npt
import pytest

from fmbseg.align.stages import patch_labels


def by_subdivision(
    label: npt.NDArray[np.integer], grid: tuple[int, int], purity: float
) -> npt.NDArray[np.int64]:
    """Cut every pixel into so many parts that the grid divides the image, then count."""
    height, width = label.shape
    fine = label.repeat(grid[0] // gcd(grid[0], height), axis=0)
    fine = fine.repeat(grid[1] // gcd(grid[1], width), axis=1)
    rows, columns = fine.shape[0] // grid[0], fine.shape[1] // grid[1]
    result = np.full(grid, 255, dtype=np.int64)
    for i in range(grid[0]):
        for j in range(grid[1]):
            patch = fine[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            values, counts = np.unique(patch[patch != 255], return_counts=True)
            if len(values) and counts.max() / patch.size >= purity:
                result[i, j] = values[counts.argmax()]
    return result


@pytest.mark.parametrize(
    ("size", "grid"),
    [((32, 40), (4, 5)), ((30, 41), (4, 5)), ((7, 9), (7, 9)), ((5, 4), (8, 6)), ((13, 1), (3, 1))],
)
@pytest.mark.parametrize("purity", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_equals_counting(size: tuple[int, int], grid: tuple[int, int], purity: float) -> None:
    rng = np.random.default_rng(size[0])
    for _ in range(5):
        coarse = rng.choice([0, 1, 7, 170, 255], size=(4, 4)).astype(np.uint8)
        rows = np.arange(size[0]) * 4 // size[0]
        columns = np.arange(size[1]) * 4 // size[1]
        label = coarse[rows][:, columns]
        noisy = np.where(rng.random(size) < 0.2, 3, label).astype(np.uint8)
        for found in (label, noisy):
            result = patch_labels(found, grid, purity)
            assert result.dtype == np.int64
            np.testing.assert_array_equal(result, by_subdivision(found, grid, purity))


def test_unlabelled_pixels_count_against_purity() -> None:
    label = np.full((8, 8), 255, dtype=np.uint8)
    label[:3] = 4  # 24 of 64 pixels
    assert patch_labels(label, (1, 1), 0.375) == 4
    assert patch_labels(label, (1, 1), 0.376) == 255


def test_exact_halves_and_ties() -> None:
    label = np.array([[2, 1]], dtype=np.uint8)
    assert patch_labels(label, (1, 1), 0.5) == 1
    assert patch_labels(np.array([[255, 9]], dtype=np.uint8), (1, 1), 0.5) == 9
    third = np.array([[0, 5, 9]], dtype=np.uint8)
    assert patch_labels(third, (1, 1), 1 / 3) == 0


def test_nothing_labelled_stays_unlabelled() -> None:
    label = np.full((8, 8), 255, dtype=np.uint8)
    assert (patch_labels(label, (2, 2), 0.0) == 255).all()


def test_takes_truth_as_it_is_read() -> None:
    label = np.array([[3, 255], [3, 3]], dtype=np.int64)
    assert patch_labels(label, (1, 1), 0.5) == 3
