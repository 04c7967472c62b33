"""Similarities smoothed over frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fmbseg.errors import ConfigError
from fmbseg.inference.maps import ManyMaps, Maps
from fmbseg.inference.smoothing import Smoothing
from fmbseg.scenes.moving import moving_scene
from fmbseg.scenes.render import render_scene, scene_seed

CLASSES = torch.arange(3)


def maps(seed: int, grid: tuple[int, int] = (16, 16)) -> Maps:
    generator = torch.Generator().manual_seed(seed)
    return Maps(torch.randn(3, *grid, generator=generator), CLASSES)


def picture(index: int = 0, size: tuple[int, int] = (128, 128)) -> Image.Image:
    return Image.fromarray(render_scene(scene_seed("development", index), size=size).image)


def test_at_rest_it_is_the_exponential_moving_average() -> None:
    smoothing, image = Smoothing(0.6), picture()
    expected = maps(0).values
    for number in range(5):
        own = maps(number)
        if number:
            expected = 0.6 * expected + 0.4 * own.values
        found = smoothing.smoothed(image, own)
        torch.testing.assert_close(found.values, expected, atol=1e-5, rtol=0)
        assert found.classes is own.classes


def test_it_goes_with_what_moves() -> None:
    """What was a patch to the left is held against where it is now."""
    pixels = np.asarray(picture(2))
    smoothing = Smoothing(0.9)
    first, nothing = maps(0), Maps(torch.zeros(3, 16, 16), CLASSES)
    smoothing.smoothed(Image.fromarray(pixels), first)
    moved = smoothing.smoothed(Image.fromarray(np.roll(pixels, 8, axis=1)), nothing)
    expected = 0.9 * torch.roll(first.values, 1, dims=2)
    inside = (slice(None), slice(2, -2), slice(3, -2))
    off = (moved.values - expected)[inside].abs().mean()
    still = (moved.values - 0.9 * first.values)[inside].abs().mean()
    assert off < 0.4 * still


@pytest.mark.parametrize("change", ["cut", "picture's size", "grid", "another video"])
def test_it_begins_anew(change: str) -> None:
    smoothing, own = Smoothing(0.9), maps(1)
    smoothing.smoothed(picture(), maps(0))
    image = picture()
    if change == "cut":
        image = Image.fromarray(255 - np.asarray(image))
    elif change == "picture's size":
        image = picture(size=(160, 128))
    elif change == "grid":
        own = maps(1, (8, 8))
    else:
        smoothing.forget()
    assert torch.equal(smoothing.smoothed(image, own).values, own.values)


def test_any_size_of_picture_will_do() -> None:
    rng = np.random.default_rng(0)
    for size in ((1, 1), (40, 1), (3, 200), (17, 31), (400, 11)):
        smoothing = Smoothing(0.5)
        for number in range(3):
            image = Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
            assert smoothing.smoothed(image, maps(number, (2, 3))).values.isfinite().all()


def test_it_takes_what_flickers_away() -> None:
    """Similarities of the truth with noise, as a model's are, on scenes that move."""
    changed = {0.0: 0, 0.8: 0}
    for share in changed:
        smoothing, last = Smoothing(share), None
        for number, frame in enumerate(moving_scene(scene_seed("development", 5), 8)):
            truth = torch.from_numpy(frame.scene.label)
            names = truth.unique()
            exact = (truth == names[:, None, None]).float()
            noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(number))
            found = smoothing.smoothed(
                Image.fromarray(frame.scene.image), Maps(exact + 0.4 * noise, names)
            )
            label = found.values.argmax(dim=0).numpy()
            if frame.before is not None and last is not None:
                seen = frame.before[..., 0] >= 0
                rows, columns = frame.before[seen].T
                changed[share] += int((label[seen] != last[rows, columns]).sum())
            last = label
    assert changed[0.8] < 0.25 * changed[0.0]


def test_what_cannot_be_smoothed_is_said() -> None:
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="give a number from 0 to below 1"):
            Smoothing(share)
    many = ManyMaps(lambda classes: maps(0), CLASSES, 1)
    with pytest.raises(ConfigError, match="name fewer classes"):
        Smoothing(0.5).smoothed(picture(), many)
