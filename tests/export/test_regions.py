from __future__ import annotations

import cv2
import numpy as np
import pytest

from fmbseg.export.polygons import polygon
from fmbseg.export.regions import regions
from fmbseg.export.source import NOTHING, Classes
from fmbseg.pseudo.tables import encode_masks
from tests.export.labels import NAMES, hard_label, noise

CLASSES = Classes(NAMES)


@pytest.mark.parametrize("seed", range(20))
def test_regions_are_the_label_map_and_each_hangs_together(seed: int) -> None:
    label = noise(seed) if seed else hard_label()
    rebuilt = np.full_like(label, NOTHING)
    for region in regions(label, CLASSES):
        mask = region.mask(label.shape)
        assert (rebuilt[mask] == NOTHING).all()
        assert cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] == 2
        assert mask.sum() == region.area
        rebuilt[mask] = region.class_index
    assert (rebuilt == label).all()


def test_islands_are_regions_of_their_own_and_stuff_is_one() -> None:
    label = hard_label()
    apart = [region.class_index for region in regions(label, CLASSES)]
    # The ring, the island in its hole and the second island; plant: in the island, corner, line.
    assert apart == [0, 0, 0, 1, 1, 1, 2, 3]
    whole = regions(label, CLASSES, stuff={0})
    assert [region.class_index for region in whole] == [0, 1, 1, 1, 2, 3]
    assert whole[0].area == (label == 0).sum()


def test_the_background_is_no_region() -> None:
    found = regions(hard_label(), Classes(NAMES, background=0))
    assert 0 not in {region.class_index for region in found}


def test_a_region_has_the_similarity_of_the_mask_that_covers_most_of_it() -> None:
    label = np.full((20, 30), NOTHING, dtype=np.int32)
    label[2:8, 2:8] = label[12:18, 12:28] = 1
    masks = np.zeros((4, 20, 30), dtype=np.bool_)
    masks[0, 2:8, 2:8] = True
    masks[1, 12:18, 12:20] = True
    masks[2, 12:18, 14:28] = True
    masks[3] = True  # of another class
    rows = [
        {"class_index": index, "similarity": score, "rle": code, "height": 20, "width": 30}
        for index, score, code in zip(
            (1, 1, 1, 0), (0.25, 0.5, 0.75, 0.9), encode_masks(masks), strict=True
        )
    ]
    found = regions(label, CLASSES, masks=rows)
    assert [region.score for region in found] == [0.25, 0.75]


@pytest.mark.parametrize("seed", range(30))
def test_a_filled_polygon_is_its_region(seed: int) -> None:
    label = noise(seed, (60, 80)) if seed else hard_label()
    for region in regions(label, CLASSES):
        points = polygon(region)
        assert len(points) >= 3
        filled = np.zeros(label.shape, dtype=np.uint8)
        cv2.fillPoly(filled, [points.astype(np.int32)], color=1)
        assert (filled.astype(bool) == region.mask(label.shape)).all()
