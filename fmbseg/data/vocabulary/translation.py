"""The classes of one vocabulary said in another: what truth says in other words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary.classes import Vocabulary, compared


def classes_by_word(words: Vocabulary) -> dict[str, int]:
    """Class index of each name, synonym and kind, written as `compared` gives it."""
    return {compared(each): k for k, entry in enumerate(words.classes) for each in entry.known_as}


def same_class(words: Iterable[str], other: Mapping[str, int]) -> int | None:
    """The index of a class in another vocabulary; None: it has no such class.

    Args:
        words: the name of the class, and further words for it; the first that the other one knows
            decides.
        other: `classes_by_word` of the other vocabulary.
    """
    return next((other[key] for word in words if (key := compared(word)) in other), None)


def translation(own: Vocabulary, other: Vocabulary) -> npt.NDArray[np.uint8]:
    """What the values of a label map in one vocabulary are in another one.

    Returns:
        [256] uint8, class index in `own` -> class index in `other`, 255 where it has no such class.
    """
    table = np.full(UNLABELLED + 1, UNLABELLED, np.uint8)
    if other.names == own.names:
        table[: len(own)] = np.arange(len(own))
        return table
    known = classes_by_word(other)
    for index, entry in enumerate(own.classes):
        found = same_class((entry.name, *entry.synonyms), known)
        if found is not None:
            table[index] = found
    return table
