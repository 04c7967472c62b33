"""Text files with a class a line, as annotation tools and editors write them."""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from fmbseg.documents import read_regular
from fmbseg.errors import VocabularyError, shown

_LARGEST = 1_000_000  # bytes: 255 classes of many words have some ten thousand
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_IGNORED = "__ignore__"  # labelme: what is not scored, value -1
_BACKGROUND = "_background_"  # labelme: value 0
_NUMBERED = re.compile(r"(\d{1,4})\s*(?:[:.)]\s*|\t\s*|,\s*)(\S.*)")
_log = logging.getLogger(__name__)


def read_text(path: Path, kind: str = "class list") -> str:
    """The text of a small file, in UTF-8, or in UTF-16 with its mark.

    Args:
        path: the file.
        kind: what messages call it.

    Raises:
        VocabularyError: it cannot be read, is too large, or is no such text.
    """
    name = shown(path)
    try:
        data = read_regular(path, _LARGEST)
    except OSError as error:
        raise VocabularyError(f"cannot read the {kind} {name} ({error.strerror})") from error
    except ValueError as error:
        raise VocabularyError(f"cannot read the {kind} {name} ({error})") from error
    if len(data) > _LARGEST:
        raise VocabularyError(f"{name} has more than {_LARGEST // 1000} kB: it is no {kind}")
    encoding = next((each for mark, each in _BOMS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"cannot read the {kind} {name}: it is not UTF-8 text (saved by an editor in another "
            "encoding, such as GBK or Windows-1252?), save it as UTF-8"
        ) from error
    if encoding == "utf-16":
        _log.warning("%s is read as UTF-16: other programs may want UTF-8", name)
    if "\0" in text:
        raise VocabularyError(f"cannot read the {kind} {name}: give a text file, saved as UTF-8")
    return text


def class_lines(path: Path, *, plain: bool) -> Iterator[tuple[int, str]]:
    """The lines of a class list with their numbers, counted from 1.

    Left out are blank lines, comments (`# ...`) and labelme's `__ignore__` before the first class,
    whose value is not scored; `_background_` is the class `background`, and numbers before the
    names are taken off where they count from 0. The log says so.

    Args:
        path: UTF-8, or UTF-16 with its mark.
        plain: a line is one name: numbers and labelme's names are looked for.

    Raises:
        VocabularyError: no such text, or numbers that are not the classes' places.
    """
    lines = [
        (number, line)
        for number, line in enumerate(read_text(path).splitlines(), start=1)
        if line.strip()
    ]
    kept = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    if len(kept) < len(lines):
        left_out = len(lines) - len(kept)
        _log.warning("%s: %d lines that begin with # left out", shown(path), left_out)
    if plain:
        kept = _without_numbers(_without_labelme(kept, path), path)
    return iter(kept)


def _without_labelme(lines: list[tuple[int, str]], path: Path) -> list[tuple[int, str]]:
    names = [line.strip() for _, line in lines]
    if _IGNORED in names[1:]:
        raise VocabularyError(
            f"{shown(path)}: {_IGNORED} is labelme's name of what is not scored, and stands first "
            "there: remove the line, or put it first"
        )
    if names[:1] == [_IGNORED]:
        _log.warning(
            "%s: %s, labelme's name of what is not scored, left out: values count on from %r",
            shown(path.parent),
            _IGNORED,
            (names[1:] or [""])[0],
        )
        lines = lines[1:]
    return [
        (number, "background" if line.strip() == _BACKGROUND else line) for number, line in lines
    ]


def _without_numbers(lines: list[tuple[int, str]], path: Path) -> list[tuple[int, str]]:
    found = [_NUMBERED.fullmatch(line.strip()) for _, line in lines]
    matches = [match for match in found if match]
    if not lines or len(matches) < len(lines):
        return lines
    numbers = [int(match[1]) for match in matches]
    if numbers != list(range(len(lines))):
        raise VocabularyError(
            f"{shown(path)}: its lines are numbered {numbers[0]} to {numbers[-1]}, not 0 to "
            f"{len(lines) - 1}: a line's place is the value of its class, write the names alone"
        )
    _log.warning("%s: numbers before the names left out", shown(path))
    return [(number, match[2]) for (number, _), match in zip(lines, matches, strict=True)]
