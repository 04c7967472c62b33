"""Names in scripts that Pillow's own font does not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from fmbseg.view import fonts
from fmbseg.view.fonts import font_for, lacks
from fmbseg.view.overlay import legend


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder of fonts, empty."""
    monkeypatch.setattr(fonts, "_FOLDERS", (tmp_path,))
    fonts._place.cache_clear()
    yield tmp_path
    fonts._place.cache_clear()


def add_font(path: Path, characters: str) -> None:
    """A font whose characters are filled squares."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000)
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")
    empty, square = pens.TTGlyphPen(None), pens.TTGlyphPen(None)
    square.moveTo((100, 0))
    for corner in ((100, 700), (800, 700), (800, 0)):
        square.lineTo(corner)
    square.closePath()
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(each): "square" for each in characters})
    builder.setupGlyf({".notdef": empty.glyph(), "square": square.glyph()})
    builder.setupHorizontalMetrics({".notdef": (900, 0), "square": (900, 100)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_a_font_of_the_machine_is_taken_where_it_has_the_characters(folder: Path) -> None:
    add_font(folder / "latin.ttf", "ab")
    (folder / "more").mkdir()
    add_font(folder / "more" / "han.ttf", "ab狗天空")
    own = ImageFont.load_default(size=16)
    assert lacks(own, "狗") and not lacks(own, "a")
    found = font_for(["dog", "狗"], 16)
    assert isinstance(found, ImageFont.FreeTypeFont)
    assert Path(str(found.path)) == folder / "more" / "han.ttf"
    assert isinstance(font_for(["dog"], 16), ImageFont.FreeTypeFont)
    assert not lacks(found, "狗")


def test_without_one_the_legend_shows_numbers_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(0, 0.5), (1, 0.3), (2, 0.2)]
    shown = legend(rows, ["狗", "dog", "café"], 400)
    expected = legend(rows, ["class 0", "dog", "cafe"], 400)
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(expected))
    (told,) = caplog.messages
    assert "no font of this machine has the characters é狗" in told
    assert isinstance(shown, Image.Image)
