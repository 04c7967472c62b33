"""Which points of the grid SAM's automatic masks are asked of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from torch import Tensor

from fmbseg.config import MasksSection
from fmbseg.models.sam import SamEncoding, SamModel


def test_object_aware_asks_no_point_in_a_certain_mask(
    sam: SamModel, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = sam.encode(np.asarray(picture))
    height, width = encoding.original_size
    section = MasksSection(
        sampler="object-aware",
        points_per_side=6,
        min_predicted_iou=0.0,
        min_stability=0.0,
        stability_offset=0.5,
        max_box_iou=1.0,
        min_area=0.0,
        max_area=0.6,
    )
    asked: list[tuple[float, float]] = []
    attend = SamModel._attend

    def spied(
        model: SamModel,
        image: Tensor,
        encoding: SamEncoding,
        prompts: npt.NDArray[np.floating],
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        asked.extend((x, y) for x, y in prompts[:, 0].tolist())
        return attend(model, image, encoding, prompts)

    grid = [((k + 0.5) * width / 6, (j + 0.5) * height / 6) for j in range(6) for k in range(6)]
    first = [grid[6 * j + k] for j in (0, 2, 4) for k in (0, 2, 4)]
    answer = sam.predict_points(encoding, np.array(first)[:, None])
    sure = np.sort(answer.predicted_iou.flatten())[-4]
    certain = [
        mask
        for mask, iou in zip(
            answer.masks.reshape(-1, height, width), answer.predicted_iou.flatten(), strict=True
        )
        if iou >= sure and mask.mean() <= 0.6
    ]
    others = [point for point in grid if point not in first]
    open_ones = [(x, y) for x, y in others if not any(mask[int(y), int(x)] for mask in certain)]
    assert 0 < len(open_ones) < len(others)

    monkeypatch.setattr(SamModel, "_attend", spied)
    found = sam.automatic_masks(
        encoding, section.model_copy(update={"certain_iou": float(sure)}), batch_size=4
    )
    np.testing.assert_allclose(asked, first + open_ones)
    # Nothing but the points differs from the grid.
    every = sam.automatic_masks(encoding, section.model_copy(update={"sampler": "grid"}))
    of_all = {mask.tobytes() for mask in every.masks}
    assert len(found.masks) and {mask.tobytes() for mask in found.masks} <= of_all
    same = sam.automatic_masks(encoding, section.model_copy(update={"certain_iou": 1.0}))
    assert {mask.tobytes() for mask in same.masks} == of_all
