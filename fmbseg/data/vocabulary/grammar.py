"""One class as a piece of text, wherever class names are written in a line.

That is in `--classes`, in lists of names in Python, and in the lines of a .txt file::

    dog|puppy        asked as dog and as puppy
    dog|puppy>0.24   only where the cosine is at least 0.24
    -wolf            no class: a word for the rest, see `fmbseg.data.vocabulary.rest`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fmbseg.data.vocabulary.classes import VocabularyClass, clean
from fmbseg.errors import VocabularyError

SYNONYM, THRESHOLD, NEGATIVE = "|", ">", "-"
# Marks that part words in lists of other projects.
_SEPARATORS = (",", ";", "|")


@dataclass(frozen=True)
class Entries:
    """What a class list says.

    Attributes:
        classes: in its order.
        negatives: words that no class is asked with, and that what is no class may be.
    """

    classes: tuple[VocabularyClass, ...]
    negatives: tuple[str, ...]


def parse_entries(texts: Iterable[str]) -> Entries:
    """Read class names as they are written in a line.

    Raises:
        VocabularyError: one holds a comma or a semicolon, or a threshold that is no number.
    """
    classes: list[VocabularyClass] = []
    negatives: list[str] = []
    for text in map(clean, texts):
        if text.startswith(NEGATIVE):
            negatives += _words(text.removeprefix(NEGATIVE), text)
        else:
            classes.append(_class(text))
    return Entries(tuple(classes), tuple(negatives))


def left_over(text: str, marks: Iterable[str] = _SEPARATORS) -> str | None:
    """A mark that parts words, where it stands in what should be one; None: there is none."""
    return next((mark for mark in marks if mark in text), None)


def _class(text: str) -> VocabularyClass:
    words, mark, least = text.partition(THRESHOLD)
    name, *synonyms = _words(words, text)
    if not mark:
        return VocabularyClass(name, tuple(synonyms))
    try:
        return VocabularyClass(name, tuple(synonyms), threshold=float(least))
    except ValueError as error:
        raise VocabularyError(
            f"{text!r}: write a least cosine behind {THRESHOLD}, such as 'dog{THRESHOLD}0.24'"
        ) from error


def _words(text: str, whole: str) -> list[str]:
    if found := left_over(text, (",", ";")):
        raise VocabularyError(
            f"{whole!r} holds {found!r}: part class names with commas alone, and synonyms with "
            f"{SYNONYM}"
        )
    words = [clean(word) for word in text.split(SYNONYM)]
    if len(words) > 1 and not all(words):
        raise VocabularyError(f"{whole!r} has an empty word: remove a {SYNONYM} too many")
    return words
