"""The sheet of one image's way through the pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fmbseg.errors import DataError
from fmbseg.pseudo.detection import Detections
from fmbseg.pseudo.pipeline import PseudoLabel
from fmbseg.view.figures import PANEL, stage_figure
from fmbseg.view.overlay import palette

NAMES = ("dog", "cat", "grass")


def found(size: tuple[int, int] = (60, 90)) -> PseudoLabel:
    """Two classes with a mask each, and two automatic masks."""
    left, top = np.zeros(size, bool), np.zeros(size, bool)
    left[:, :30] = True
    top[:20] = True
    label = np.full(size, 255, np.uint8)
    label[left] = 2
    label[top] = 0
    two = np.ones(2, np.float32)
    return PseudoLabel(
        label=label,
        detections=Detections(np.array([2, 0]), np.array([3, 1]), two),
        points=np.array([[[10, 50]], [[45, 10]]], np.float32),
        query_masks=np.stack([left, top]),
        query_iou=two,
        masks=np.stack([left, top]),
        mask_iou=two,
        mask_classes=np.array([2, 255]),
        mask_similarity=two,
    )


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (1200, 800)])
def test_panels_stand_in_rows_of_three(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (90, 90, 90))
    label = np.zeros((size[1], size[0]), np.uint8)
    alone = stage_figure(image, NAMES)
    assert max(alone.size) < 1.3 * PANEL
    full = stage_figure(
        image, NAMES, truth=label, pseudo=found((size[1], size[0])), result=label.astype(np.int64)
    )
    panel = PANEL if size[0] > size[1] else PANEL * 2 // 3
    assert 3 * panel < full.width < 3 * (panel + 20)
    assert full.height > 2 * PANEL * min(size[1] / size[0], 1.0)


def test_stars_and_colours_of_all_panels_are_in_the_sheet() -> None:
    image = Image.new("RGB", (90, 60), (90, 90, 90))
    sheet = np.asarray(stage_figure(image, NAMES, pseudo=found()))
    shown = {tuple(pixel) for pixel in sheet.reshape(-1, 3).tolist()}
    colours = [tuple(colour) for colour in palette(3).tolist()]
    assert (0, 200, 60) in shown
    assert colours[0] in shown and colours[2] in shown
    assert colours[1] not in shown


def test_nothing_found_is_drawn_too() -> None:
    nothing = np.zeros(0, np.float32)
    empty = PseudoLabel(
        label=np.full((60, 90), 255, np.uint8),
        detections=Detections(nothing.astype(np.int64), nothing.astype(np.int64), nothing),
        points=np.zeros((0, 5, 2), np.float32),
        query_masks=np.zeros((0, 60, 90), bool),
        query_iou=nothing,
        masks=np.zeros((0, 60, 90), bool),
        mask_iou=nothing,
        mask_classes=nothing.astype(np.int64),
        mask_similarity=nothing,
    )
    stage_figure(Image.new("RGB", (90, 60)), NAMES, pseudo=empty)


def test_another_size_is_refused() -> None:
    with pytest.raises(DataError, match=r"result \[3, 3\] does not fit"):
        stage_figure(Image.new("RGB", (90, 60)), NAMES, result=np.zeros((3, 3), np.int64))
