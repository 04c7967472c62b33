"""What is made of measurements of growth, and the pictures they are made with."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.growth import SPLIT, STAGES, Run, Stage, draw, growing, line, tenths
from fmbseg.data.datasets import load_dataset


def measured(images: int, peak: float = 900.0, files: int = 20) -> Run:
    stage = Stage(10.0, 0.1, 0.1, peak, files, 3, 0, 1.0, 200.0, ())
    return Run(images, dict.fromkeys(STAGES, stage))


def test_a_line_goes_through_both() -> None:
    small, large = Run(1000), Run(4000)
    assert line(small, large, 2.0, 5.0, 10_000) == pytest.approx(11.0)
    assert line(small, large, 2.0, 5.0, 4000) == 5.0
    assert line(small, large, 5.0, 4.0, 10_000) == 4.0  # it does not fall for ever


def test_tenths_are_rates_of_the_ends() -> None:
    # 64 pictures a mark: 1 s each for the first, then twice as long; models before the first.
    times = [30.0]
    for mark in range(39):
        times.append(times[-1] + (64 if mark < 20 else 128))
    first, last = tenths([(when, 64 * (number + 1)) for number, when in enumerate(times)])
    assert (first, last) == (1.0, 2.0)
    assert all(map(math.isnan, tenths([(0.0, 1), (1.0, 2)])))


def test_growth_is_told() -> None:
    assert growing(measured(100), measured(400, peak=980.0, files=21)) == []
    found = growing(measured(100), measured(400, peak=1000.0, files=40))
    assert len(found) == 2 * len(STAGES)
    assert found[0] == "detect: peak 900 with 100 pictures, 1000 with 400"


@pytest.mark.parametrize("same_bytes", [True, False])
def test_copies_have_names_and_where_asked_bytes_of_their_own(
    tmp_path: Path, same_bytes: bool
) -> None:
    draw(tmp_path, images=5, distinct=2, side=64, same_bytes=same_bytes)
    files = sorted((tmp_path / "images" / SPLIT).iterdir())
    contents = {path.read_bytes() for path in files}
    assert len(files) == 5 and len(contents) == (2 if same_bytes else 5)
    pixels = {Image.open(path).tobytes() for path in files}
    assert len(pixels) == 2
    assert len(load_dataset("coco_stuff", tmp_path, SPLIT).image_files) == 5
