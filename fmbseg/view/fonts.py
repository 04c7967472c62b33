"""A font that has the characters of class names, in whatever script they are written."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from unicodedata import combining, normalize

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Where systems keep fonts.
_FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path.home() / ".local/share/fonts",
    Path.home() / ".fonts",
    Path("/System/Library/Fonts"),
    Path("/Library/Fonts"),
)
# Those that have many scripts come first.
_WIDE = ("cjk", "unicode", "fallback", "wqy", "noto", "dejavusans.")
_MOST = 300  # fonts that are looked into
_NOBODY = chr(sys.maxunicode - 1)  # a character that no font has
_log = logging.getLogger(__name__)


def font_for(texts: Sequence[str], size: int) -> Font:
    """Pillow's own font; where it lacks characters, one of this machine's that has them.

    Args:
        texts: what is to be drawn.
        size: pixels.
    """
    own, place = ImageFont.load_default(size=size), font_file(texts)
    return own if place is None else ImageFont.truetype(place, size)


def font_file(texts: Sequence[str]) -> Path | None:
    """A font of this machine with the characters that Pillow's own lacks; None: it has them all.

    None also where no font here has them.
    """
    own = ImageFont.load_default(size=16)
    wanted = frozenset(character for text in texts for character in text if lacks(own, character))
    return _place(wanted) if wanted else None


def lacks(font: Font, character: str) -> bool:
    """Whether a font draws a box in place of a character."""
    if character.isspace() or character.isascii():
        return False
    return bytes(font.getmask(character)) == bytes(font.getmask(_NOBODY))


def drawable(name: str, font: Font, otherwise: str) -> str:
    """A name as a font can draw it: without accents, if need be, or another text in its place."""
    if not any(lacks(font, character) for character in name):
        return name
    plain = "".join(each for each in normalize("NFKD", name) if not combining(each))
    return plain if plain.isascii() else otherwise


@cache
def _place(wanted: frozenset[str]) -> Path | None:
    """The first font file that has all of some characters, ASCII too."""
    for place in _fonts():
        try:
            font = ImageFont.truetype(place, 16)
        except OSError:
            continue
        if not any(lacks(font, character) for character in wanted) and font.getbbox("a")[2]:
            return place
    shown = "".join(sorted(wanted))[:20]
    _log.warning(
        "no font of this machine has the characters %s: legends show plain letters or numbers "
        "(install a font, such as Noto Sans CJK)",
        shown,
    )
    return None


def _fonts() -> Iterator[Path]:
    found = [
        path
        for folder in _FOLDERS
        if folder.is_dir()
        for path in folder.rglob("*.[toTO]*")
        if path.suffix.lower() in (".ttf", ".ttc", ".otf")
    ]

    def rank(path: Path) -> tuple[int, str]:
        name = path.name.lower()
        return next((k for k, part in enumerate(_WIDE) if part in name), len(_WIDE)), str(path)

    yield from sorted(found, key=rank)[:_MOST]
