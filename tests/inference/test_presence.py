"""Classes that are in a picture: held against plain loops over the grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from fmbseg.config import InferenceSection
from fmbseg.inference.maps import ManyMaps, Maps
from fmbseg.inference.presence import of_present
from fmbseg.inference.segmenter import load_segmenter
from tests.heads import write_head


def maps_of(winners: list[list[int]], classes: int) -> Maps:
    """Maps [K, h, w] whose most similar class is the one given; the next one is the next class."""
    grid = torch.tensor(winners)
    values = torch.zeros(classes, *grid.shape)
    values.scatter_(0, grid[None], 0.9)
    values.scatter_(0, ((grid + 1) % classes)[None], 0.5)
    return Maps(values, torch.arange(classes))


def largest(winners: npt.NDArray[np.int64], index: int) -> int:
    """Patches of a class's largest region, by a walk over neighbours."""
    left = {(r, c) for r, c in np.ndindex(winners.shape) if winners[r, c] == index}
    best = 0
    while left:
        waiting, size = [left.pop()], 0
        while waiting:
            row, column = waiting.pop()
            size += 1
            for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                near = (row + step[0], column + step[1])
                if near in left:
                    left.remove(near)
                    waiting.append(near)
        best = max(best, size)
    return best


def test_specks_go_and_the_rest_is_asked_again() -> None:
    maps = maps_of([[0, 0, 0, 2], [0, 0, 0, 0], [1, 1, 1, 1]], 4)
    found = of_present(maps, 2 / 12)
    # Class 2 has one patch; what comes next there, class 3, has none at all.
    assert found.values.argmax(dim=0).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert (found.values >= -1).all()
    assert of_present(maps, 0) is maps


def test_diagonal_neighbours_are_two_regions() -> None:
    maps = maps_of([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 2)
    assert of_present(maps, 2 / 9).values.argmax(dim=0).unique().tolist() == [0]
    assert of_present(maps, 1 / 9).values.argmax(dim=0).unique().tolist() == [0, 1]


def test_where_nothing_is_large_enough_the_most_frequent_class_stays() -> None:
    maps = maps_of([[0, 1], [2, 0]], 3)
    assert of_present(maps, 0.9).values.argmax(dim=0).unique().tolist() == [0]


def test_words_of_a_class_win_together() -> None:
    # Two words of class 7 win a patch each; of one class they are a region of two.
    values = torch.tensor([[[0.9, 0.1, 0.0]], [[0.1, 0.9, 0.0]], [[0.2, 0.2, 0.9]]])
    maps = Maps(values, torch.tensor([7, 7, 3]))
    found = of_present(maps, 2 / 3)
    assert (found.values[2] == -1).all()
    torch.testing.assert_close(found.values[:2], values[:2])


@pytest.mark.parametrize("least", [0.02, 0.06, 0.15])
def test_equals_plain_loops_also_part_by_part(least: float) -> None:
    rng = torch.Generator().manual_seed(3)
    coarse = torch.rand(9, 3, 4, generator=rng)
    values = torch.nn.functional.interpolate(coarse[None], (12, 13), mode="bilinear")[0]
    values += 0.05 * torch.rand(values.shape, generator=rng)
    winners = values.argmax(dim=0).numpy()
    wanted = [k for k in range(9) if largest(winners, k) >= least * winners.size]
    found = of_present(Maps(values, torch.arange(9)), least)
    assert [k for k in range(9) if (found.values[k] > -1).any()] == wanted
    many = ManyMaps(lambda classes: Maps(values[classes], classes), torch.arange(9), 4)
    assert of_present(many, least).classes.tolist() == wanted


def test_scores_and_labels_of_a_segmenter_agree(tmp_path: Path) -> None:
    write_head(tmp_path / "head", 0)
    asked = InferenceSection(short_side=64, min_region=0.1)
    segmenter = load_segmenter(tmp_path / "head", asked)
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    image = coarse.resize((90, 70), Image.Resampling.BICUBIC)
    names = ["dog", "cat", "grass", "sky", "road", "car"]
    plain = load_segmenter(tmp_path / "head", InferenceSection(short_side=64)).predict(image, names)
    found = segmenter.predict(image, names)
    assert set(np.unique(found.label_map)) < set(np.unique(plain.label_map))
    np.testing.assert_array_equal(found.scores.argmax(axis=0), found.label_map)
    assert np.abs(found.scores).max() <= 1 + 1e-5
