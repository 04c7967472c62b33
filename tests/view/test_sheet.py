from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fmbseg.data.palette import palette
from fmbseg.errors import DataError
from fmbseg.view.sheet import CELL, label_sheet

NAMES = ["background", "dog", "cat"]


def test_labels_are_painted_and_background_is_not() -> None:
    image = Image.new("RGB", (440, 330), (120, 120, 120))
    label = np.zeros((330, 440), np.int64)
    label[:, 220:] = 2
    sheet = np.asarray(label_sheet([("a.jpg", image, label)], NAMES, background=0)).astype(int)
    assert (sheet == (120, 120, 120)).all(-1).sum() > 0.4 * 440 * 330
    colour = 0.55 * palette(3)[2] + 0.45 * 120
    assert (np.abs(sheet - colour).max(-1) <= 2).sum() > 0.4 * 440 * 330


def test_pictures_of_any_shape_stand_in_rows_of_three() -> None:
    panels = [(f"{k}.jpg", Image.new("RGB", size), None) for k, size in enumerate([(900, 30)] * 4)]
    sheet = label_sheet(panels, NAMES)
    assert 3 * CELL[0] < sheet.width < 3 * CELL[0] + 60
    assert 2 * CELL[1] < sheet.height < 2 * CELL[1] + 250
    with pytest.raises(DataError, match="does not fit the image"):
        label_sheet([("a", Image.new("RGB", (4, 4)), np.zeros((3, 4), np.int64))], NAMES)
