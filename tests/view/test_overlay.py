"""Overlays: colours, legend, sizes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from fmbseg.data.labels import UNLABELLED
from fmbseg.data.palette import palette
from fmbseg.errors import DataError
from fmbseg.view.overlay import (
    MIN_LONG_SIDE,
    area_shares,
    blend,
    fit_text,
    legend,
    overlay,
)

NAMES = ("dog", "cat", "grass")


def halves(width: int = 40, height: int = 30) -> np.ndarray:
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] = 2
    return label


def test_palette_is_distinct_and_a_class_keeps_its_colour() -> None:
    colours = palette(255)
    assert colours.shape == (255, 3) and colours.dtype == np.uint8
    assert len({tuple(row) for row in colours.tolist()}) == 255
    assert (palette(21) == colours[:21]).all()
    gaps = np.abs(colours[:21, None].astype(int) - colours[None, :21]).sum(-1)
    assert gaps[~np.eye(21, dtype=bool)].min() > 60


def test_a_callers_change_does_not_reach_the_palette() -> None:
    palette(3)[:] = 0
    assert palette(3).any(axis=1).all()


def test_colours_come_again_after_255_classes() -> None:
    with pytest.raises(DataError, match="at least one colour, not 0"):
        palette(0)
    many = palette(600)
    assert len(np.unique(many[:255], axis=0)) == 255
    assert (many[255:510] == many[:255]).all() and (palette(3) == many[:3]).all()


def test_area_shares_are_sorted_and_name_the_unlabelled() -> None:
    label = np.array([[0, 2, 2, 2, 2, 2, 255, 255, 7, 0]])
    assert area_shares(label, 3) == [(2, 0.5), (0, 0.2), (UNLABELLED, 0.3)]


@pytest.mark.parametrize("band", [1, 900 * 40, 900 * 333])
def test_bands_leave_no_trace(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (600, 900, 3), dtype=np.uint8))
    label = rng.integers(0, 4, (30, 45), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
    whole = np.asarray(blend(image, label, palette(3)))
    monkeypatch.setattr("fmbseg.view.overlay._BAND_PIXELS", band)
    np.testing.assert_array_equal(np.asarray(blend(image, label, palette(3))), whole)


def test_small_pictures_are_enlarged_and_large_ones_are_not() -> None:
    small = overlay(Image.new("RGB", (40, 30)), halves(), NAMES)
    assert small.width == 40 * 13
    large = blend(Image.new("RGB", (900, 600)), halves(900, 600), palette(3))
    assert large.size == (900, 600)
    assert blend(Image.new("L", (380, 5)), halves(380, 5), palette(3)).width >= MIN_LONG_SIDE * 0.66


def test_the_legend_covers_nothing_of_the_picture() -> None:
    image = Image.new("RGB", (600, 400), (90, 90, 90))
    label = halves(600, 400)
    sheet = np.asarray(overlay(image, label, NAMES))
    picture = np.asarray(blend(image, label, palette(3)))
    assert sheet.shape[0] > 400
    assert (sheet[:400, :600] == picture).all()


def test_regions_are_tinted_outlined_and_parted() -> None:
    colours = palette(3)
    image = Image.new("RGB", (600, 400), (90, 90, 90))
    result = np.asarray(blend(image, halves(600, 400), colours)).astype(int)
    for x, k in ((100, 0), (500, 2)):
        assert np.abs(result[200, x] - (0.45 * 90 + 0.55 * colours[k])).max() <= 1
    assert (result[200, 300] == 255).all()
    assert (result[200, 298] == colours[0]).all() and (result[200, 302] == colours[2]).all()


def test_unlabelled_pixels_keep_the_image() -> None:
    image = Image.new("RGB", (600, 400), (10, 120, 30))
    label = np.full((400, 600), 255, np.uint8)
    assert (np.asarray(blend(image, label, palette(3))) == (10, 120, 30)).all()
    label = np.full((400, 600), -1, np.int64)
    assert (np.asarray(blend(image, label, palette(3))) == (10, 120, 30)).all()


def test_the_legend_shows_only_present_classes_in_their_colours() -> None:
    colours = palette(3)
    sheet = np.asarray(overlay(Image.new("RGB", (600, 400)), halves(600, 400), NAMES))[400:]
    shown = {tuple(pixel) for pixel in sheet.reshape(-1, 3).tolist()}
    assert tuple(colours[0].tolist()) in shown and tuple(colours[2].tolist()) in shown
    assert tuple(colours[1].tolist()) not in shown


def test_a_narrow_picture_gets_a_legend_that_can_be_read() -> None:
    sheet = overlay(Image.new("RGB", (5, 600)), np.zeros((600, 5), np.uint8), NAMES)
    assert sheet.width >= 200
    assert sheet.height > 600


def test_many_classes_all_get_a_line_and_long_names_are_cut() -> None:
    names = [f"class number {k} with a long name" for k in range(171)]
    sheet = legend([(k, 1 / 171) for k in range(171)], names, width=512)
    one = legend([(0, 1.0)], names, width=512)
    assert sheet.width == 512
    assert sheet.height > 50 * one.height / 2
    font = ImageFont.load_default(size=14)
    cut = fit_text(names[0], font, 60)
    assert cut.endswith("...") and font.getlength(cut) <= 60
    assert fit_text("dog", font, 60) == "dog"


def test_mistakes_are_named() -> None:
    image = Image.new("RGB", (40, 30))
    with pytest.raises(DataError, match="does not fit"):
        overlay(image, halves(30, 40), NAMES)
    with pytest.raises(DataError, match="integer"):
        overlay(image, halves().astype(np.float32), NAMES)
    with pytest.raises(DataError, match="names"):
        overlay(image, halves(), ())


def test_on_photos(samples: Path) -> None:
    for path in sorted((samples / "photos").glob("*"))[:3]:
        image = Image.open(path)
        label = halves(*image.size)
        sheet = overlay(image, label, NAMES)
        assert sheet.mode == "RGB" and sheet.width >= image.width


def test_the_background_class_is_left_as_the_image_has_it() -> None:
    image = Image.new("RGB", (600, 400), (90, 90, 90))
    sheet = np.asarray(overlay(image, halves(600, 400), NAMES, background=0))
    assert (sheet[200, 50] == 90).all(), "class 0 is not painted"
    painted = np.asarray(overlay(image, halves(600, 400), NAMES))
    assert (sheet[200, 550] == painted[200, 550]).all(), "class 2 is"
    assert (sheet[:, 50:] != painted[:, 50:]).any()
