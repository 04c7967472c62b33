"""Class lists of other projects: text files with a class a line and a separator between words."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fmbseg.data.class_list import class_lines
from fmbseg.data.vocabulary.classes import Vocabulary, VocabularyClass, clean, compared
from fmbseg.data.vocabulary.files import background_index
from fmbseg.data.vocabulary.grammar import left_over
from fmbseg.data.vocabulary.loading import load_vocabulary
from fmbseg.data.vocabulary.names import warn_of_background, warn_of_blanks
from fmbseg.errors import VocabularyError

_log = logging.getLogger(__name__)


def vocabulary_from_text(
    path: str | Path,
    *,
    separator: str,
    background: str | None = None,
    of: str | None = None,
) -> Vocabulary:
    """Import a class list in text form: a line a class, `separator` between its words.

    The field's repositories write the same lists with ", ", "; " and ";"; the wrong one silently
    turns all words of a class into one long prompt, so the separator is never guessed and a
    separator left over in a word is refused. The first word of a line names its class, unless the
    list belongs to a benchmark: then the lines are the words its classes are asked with.

    Warnings are logged for stray blanks, which are removed, for a separator without its blank, and
    with `of` for a word that stands in two classes, which is kept as its authors asked with it.

    Args:
        path: text file, see `class_lines`.
        separator: between the words of one class, e.g. "; ".
        background: name of the class that is the background, if any.
        of: name of the vocabulary whose classes the lines are, in its order; it also says which
            class is the background.

    Raises:
        VocabularyError: unreadable file, a left-over separator, words that clash, or another
            number of lines than `of` has classes.
    """
    path = Path(path)
    mark = separator.strip()
    if not mark:
        raise VocabularyError("the separator is blank: give a mark such as ',' or ';'")
    rows = []
    for number, line in class_lines(path, plain=False):
        warn_of_blanks(f"{path} line {number}", line, separator)
        words = [clean(word) for word in line.split(mark)]
        if found := left_over("".join(words)):
            raise VocabularyError(
                f"{path} line {number} holds {found!r} after splitting at "
                f"{separator!r}: give the separator this file uses"
            )
        rows.append(tuple(words))
    if of is not None:
        return _asking(load_vocabulary(of), rows, path)
    classes = tuple(VocabularyClass(words[0], words[1:]) for words in rows)
    if background is None:
        warn_of_background(str(path), [entry.name for entry in classes])
    return Vocabulary(path.stem, classes, background_index(background, classes, path))


def _asking(base: Vocabulary, rows: Sequence[tuple[str, ...]], path: Path) -> Vocabulary:
    if len(rows) != len(base):
        raise VocabularyError(
            f"{path} has {len(rows)} lines, but {base.name} has {len(base)} classes: "
            "give the list of that benchmark"
        )
    if any(not word for words in rows for word in words):
        raise VocabularyError(f"{path} has an empty word: remove a separator too many")
    classes = tuple(
        VocabularyClass(name, ask=words) for name, words in zip(base.names, rows, strict=True)
    )
    owners = Counter(compared(word) for words in rows for word in dict.fromkeys(words))
    for word in (word for word, count in owners.items() if count > 1):
        _log.warning("%s: %r stands in two classes, the first wins a tie", path, word)
    return Vocabulary(path.stem, classes, base.background)
