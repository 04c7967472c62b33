"""What of labels should give a reader pause."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.data.vocabulary import Vocabulary

# A head that sees hardly anything but one class learns to say it.
NEARLY_ALL = 0.9


def covers_nearly_all(areas: npt.NDArray[Any], words: Vocabulary) -> str | None:
    """In words, which class has hardly left anything to the others; None: none has.

    Args:
        areas: [K] of each class, in any unit.
        words: the vocabulary. Its background may cover what it likes.
    """
    index, total = int(np.argmax(areas)), areas.sum()
    if not total or areas[index] < NEARLY_ALL * total:
        return None
    if len(words) == 1 or index == words.background:
        return None
    return f"{words.names[index]!r} covers {100 * areas[index] / total:.0f} %"
