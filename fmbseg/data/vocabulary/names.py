"""Vocabularies of class names that are written in lines, see `fmbseg.data.vocabulary.grammar`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from fmbseg.data.class_list import class_lines
from fmbseg.data.vocabulary.classes import Vocabulary, compared
from fmbseg.data.vocabulary.grammar import left_over, parse_entries
from fmbseg.data.vocabulary.rest import with_rest
from fmbseg.errors import VocabularyError

_log = logging.getLogger(__name__)


def vocabulary_from_names(
    names: Sequence[str], name: str = "custom", rest: str | None = None
) -> Vocabulary:
    """A vocabulary of class names, with a rest where it is to have one (see `with_rest`).

    A class called background is a word like any other, and a warning says so.

    Args:
        names: a class each, see `fmbseg.data.vocabulary.grammar`.
        name: of the vocabulary.
        rest: name of the class of what is none of the others; None: as `with_rest` says.

    Raises:
        VocabularyError: no names, an empty one, one that stands twice, or one that is no class.
    """
    if isinstance(names, str):
        raise VocabularyError(f"class names are one string {names!r}: give a list of names")
    found = parse_entries(names)
    if rest is None:
        warn_of_background(name, [entry.name for entry in found.classes])
    return with_rest(Vocabulary(name, found.classes), rest, found.negatives)


def vocabulary_from_lines(path: Path) -> Vocabulary:
    """The vocabulary of a plain text file: a line a class.

    Args:
        path: see `class_lines`.

    Raises:
        VocabularyError: unreadable file, a mark that parts words in other lists, or words that
            clash.
    """
    texts = []
    for number, line in class_lines(path, plain=True):
        if mark := left_over(line, (",", ";")):
            raise VocabularyError(
                f"{path} line {number} holds {mark!r}: a line is one class, import a list with "
                "`fmbseg data vocabulary --separator`, or part synonyms with |"
            )
        warn_of_blanks(f"{path} line {number}", line)
        texts.append(line)
    found = parse_entries(texts)
    warn_of_background(str(path), [entry.name for entry in found.classes])
    own = Vocabulary(path.stem, found.classes)
    return with_rest(own, None, found.negatives) if found.negatives else own


def warn_of_background(place: str, names: Iterable[str]) -> None:
    """Say what the word "background" is, where it is among class names."""
    if any(compared(name) == "background" for name in names):
        _log.warning(
            "%s: CLIP is asked for the word 'background' as for any other; for pixels of no other "
            "class take --rest background, or a YAML file with `background: background`",
            place,
        )


def warn_of_blanks(place: str, line: str, separator: str | None = None) -> None:
    """Say what of blanks around words is odd."""
    if line != line.strip() or "  " in line.strip():
        _log.warning("%s: stray blanks removed from %r", place, line)
    mark = (separator or "").strip()
    if mark and separator != mark and mark in line.replace(separator or mark, ""):
        # Readers that split at the separator with its blank take both words for one prompt.
        _log.warning("%s: %r without its blank taken as the separator too", place, mark)
