"""Classes merged, renamed or left out, by a file that says which belong together.

    animal: [dog, cat, cow]
    car: automobile
    unlabelled: [void]

Classes that it does not name stay as they are. A group stands where its first class stood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.data.class_list import read_text
from fmbseg.data.vocabulary.classes import Vocabulary, VocabularyClass, compared
from fmbseg.documents import parse_yaml
from fmbseg.errors import VocabularyError

LEFT_OUT = "unlabelled"
"""The group of classes that lose their label."""


@dataclass(frozen=True)
class Grouping:
    """Where the classes of a list go.

    Attributes:
        names: of the G groups, in index order.
        of: [K] group of each class; None: it has none, and what was labelled so has no label.
    """

    names: tuple[str, ...]
    of: tuple[int | None, ...]

    def table(self, nothing: int) -> npt.NDArray[np.int64]:
        """[K] int64 group of each class, `nothing` where it has none."""
        return np.array([nothing if group is None else group for group in self.of], dtype=np.int64)

    def group(self, index: int | None) -> int | None:
        """Group of a class, such as the background."""
        return None if index is None else self.of[index]

    def folded(self, matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """A confusion matrix [K, K + 1] of classes as one [G, G + 1] of groups.

        Its last column holds predictions that are no class; rows of classes left out are dropped.
        """
        groups = len(self.names)
        table = self.table(groups)
        found = np.zeros((groups + 1, groups + 1), dtype=np.int64)
        columns = np.append(table, groups)
        np.add.at(found, (table[:, None], columns[None, :]), matrix)
        return found[:groups]

    def merged(self, words: Vocabulary) -> Vocabulary:
        """A vocabulary of the groups: each is asked with the words of all its classes.

        So it is as similar as the most similar of them, and labels are those of the classes,
        grouped. A group that holds the background is the background. Classes left out go to the
        rest, and need one.

        Raises:
            VocabularyError: classes are left out and there is no background, or classes of one
                group have different thresholds.
        """
        members: list[list[int]] = [[] for _ in self.names]
        for index, group in enumerate(self.of):
            if group is not None:
                members[group].append(index)
        background = self.group(words.background)
        for index, group in enumerate(self.of):
            if group is None:
                if background is None:
                    raise VocabularyError(
                        f"{words.names[index]!r} is left out, and there is no background it could "
                        "be: name one with --rest"
                    )
                members[background].append(index)
        classes = [_merged(name, own, words) for name, own in zip(self.names, members, strict=True)]
        return Vocabulary(words.name, tuple(classes), background, words.templates)


def load_grouping(path: Path, names: Sequence[str]) -> Grouping:
    """The grouping of a file, for the classes of a list.

    Args:
        path: YAML, see the module.
        names: of the K classes.

    Raises:
        VocabularyError: it is no such file, names a class that there is not or one twice, or gives
            a group the name of a class that it does not hold.
    """
    raw = parse_yaml(read_text(path, "file of groups"), path, VocabularyError)
    if not isinstance(raw, Mapping):
        raise VocabularyError(f"{path} holds no groups: write `animal: [dog, cat]`, a line a group")
    places = {compared(name): index for index, name in enumerate(names)}
    group_of: dict[int, str] = {}
    for group, members in raw.items():
        for member in _members(group, members, path):
            index = places.get(compared(member))
            if index is None:
                raise VocabularyError(f"{path}: {member!r} is none of the {len(names)} classes")
            if index in group_of:
                raise VocabularyError(f"{path}: {member!r} stands twice: a class has one group")
            group_of[index] = group
    return _grouping(path, names, group_of)


def _grouping(path: Path, names: Sequence[str], group_of: Mapping[int, str]) -> Grouping:
    numbers: dict[str, int] = {}
    found: list[int | None] = []
    for index, name in enumerate(names):
        group = group_of.get(index, name)
        if group == LEFT_OUT and index in group_of:
            found.append(None)
        else:
            found.append(numbers.setdefault(group, len(numbers)))
    alone = {name: index for index, name in enumerate(names) if index not in group_of}
    for group in set(group_of.values()) & set(alone):
        raise VocabularyError(
            f"{path}: the group {group!r} has the name of a class that it does not hold: add it"
        )
    return Grouping(tuple(numbers), tuple(found))


def _members(group: Any, members: Any, path: Path) -> list[str]:
    listed = [members] if isinstance(members, str) else members
    whole = isinstance(listed, list) and listed and all(isinstance(each, str) for each in listed)
    if not isinstance(group, str) or not whole:
        raise VocabularyError(
            f"{path}: {group!r} needs class names, `animal: [dog, cat]` (quote odd names)"
        )
    return [str(each) for each in listed]


def _merged(name: str, members: Sequence[int], words: Vocabulary) -> VocabularyClass:
    queries, owners = words.queries
    asked = [word for word, owner in zip(queries, owners, strict=True) if owner in members]
    entries = [words.classes[index] for index in members]
    if len({entry.threshold for entry in entries}) > 1:
        raise VocabularyError(f"the classes of {name!r} have different thresholds: give one")
    if len(entries) == 1 and entries[0].name == name:
        return entries[0]
    return VocabularyClass(name, ask=tuple(asked), threshold=entries[0].threshold)
