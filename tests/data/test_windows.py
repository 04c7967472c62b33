from __future__ import annotations

import numpy as np
import pytest

from fmbseg.data.templates import TEMPLATES
from fmbseg.data.windows import resize_to_short_side, sliding_windows
from fmbseg.errors import ConfigError


@pytest.mark.parametrize(
    ("size", "short_side", "multiple", "expected"),
    [
        ((640, 480), 240, 1, (320, 240)),
        ((480, 640), 240, 1, (240, 320)),
        ((640, 426), 336, 16, (512, 336)),
        ((500, 375), 448, 14, (602, 448)),
        ((100, 100), 128, 8, (128, 128)),
        ((4000, 10), 8, 8, (3200, 8)),
        ((300, 200), 3, 8, (8, 8)),  # never less than one patch
        ((100, 100), 12, 8, (16, 16)),  # a half goes up, on both sides alike
    ],
)
def test_short_side_and_multiple(
    size: tuple[int, int], short_side: int, multiple: int, expected: tuple[int, int]
) -> None:
    assert resize_to_short_side(*size, short_side, multiple) == expected


def test_aspect_is_kept_within_half_a_multiple() -> None:
    rng = np.random.default_rng(0)
    for width, height in rng.integers(50, 3000, size=(200, 2)).tolist():
        new_width, new_height = resize_to_short_side(width, height, 336, 14)
        scale = 336 / min(width, height)
        assert new_width % 14 == 0 and new_height % 14 == 0
        assert min(new_width, new_height) == 336
        assert abs(new_width - width * scale) <= 7 and abs(new_height - height * scale) <= 7


@pytest.mark.parametrize("height", [1, 17, 63, 64, 65, 96, 100, 128, 129])
@pytest.mark.parametrize("width", [5, 64, 90, 160])
@pytest.mark.parametrize(("window", "stride"), [(64, 32), (64, 64), (64, 63), (8, 1)])
def test_windows_cover_the_image_from_inside(
    height: int, width: int, window: int, stride: int
) -> None:
    offsets = sliding_windows(height, width, window, stride)
    assert len(set(offsets)) == len(offsets)
    assert offsets == sorted(offsets)
    covered = np.zeros((height, width), dtype=bool)
    for top, left in offsets:
        assert 0 <= top <= max(height - window, 0) and 0 <= left <= max(width - window, 0)
        covered[top : top + window, left : left + window] = True
    assert covered.all()
    # The count the slide inference of mmsegmentation has.
    rows = max(height - window + stride - 1, 0) // stride + 1
    columns = max(width - window + stride - 1, 0) // stride + 1
    assert len(offsets) == rows * columns


def test_last_window_is_shifted_back() -> None:
    assert sliding_windows(100, 64, 64, 32) == [(0, 0), (32, 0), (36, 0)]
    assert sliding_windows(40, 100, 64, 32) == [(0, 0), (0, 32), (0, 36)]
    assert sliding_windows(10, 10, 64, 32) == [(0, 0)]


def test_bad_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="stride is 0"):
        sliding_windows(10, 10, 4, 0)
    with pytest.raises(ConfigError, match="stride 5 is larger than window 4"):
        sliding_windows(10, 10, 4, 5)
    with pytest.raises(ConfigError, match="height is 0"):
        resize_to_short_side(10, 0, 4)


def test_template_sets() -> None:
    assert {name: len(sentences) for name, sentences in TEMPLATES.items()} == {
        "single": 1,
        "subset7": 7,
        "custom9": 9,
        "imagenet80": 80,
    }
    for sentences in TEMPLATES.values():
        assert len(set(sentences)) == len(sentences)
        assert all(sentence.count("{}") == 1 for sentence in sentences)
    assert set(TEMPLATES["subset7"]) < set(TEMPLATES["imagenet80"])
