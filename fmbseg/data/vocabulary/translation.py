"""The classes of one vocabulary said in another: what truth says in other words."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary.classes import Vocabulary, compared


def same_class(words: Iterable[str], other: Vocabulary) -> int | None:
    """The index of a class in another vocabulary; None: it has no such class.

    Args:
        words: the name of the class, and further words for it; the first that the other one knows
            by a name, a synonym or a kind decides.
        other: the other vocabulary.
    """
    index = {compared(word): k for k, c in enumerate(other.classes) for word in c.known_as}
    return next((index[key] for word in words if (key := compared(word)) in index), None)


def translation(own: Vocabulary, other: Vocabulary) -> npt.NDArray[np.uint8]:
    """What the values of a label map in one vocabulary are in another one.

    Returns:
        [256] uint8, class index in `own` -> class index in `other`, 255 where it has no such class.
    """
    table = np.full(UNLABELLED + 1, UNLABELLED, np.uint8)
    if other.names == own.names:
        table[: len(own)] = np.arange(len(own))
        return table
    for index, entry in enumerate(own.classes):
        found = same_class((entry.name, *entry.synonyms), other)
        if found is not None:
            table[index] = found
    return table
