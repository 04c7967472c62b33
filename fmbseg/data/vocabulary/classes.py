"""What a vocabulary is: classes, the words CLIP is asked with for each, and which is the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

from pydantic import ConfigDict

from fmbseg.data.labels import DEEP_UNLABELLED, UNLABELLED, unlabelled
from fmbseg.data.templates import TEMPLATES
from fmbseg.errors import VocabularyError, is_control, shown
from fmbseg.store.digest import json_digest

_LONGEST = 200  # characters of a name: CLIP reads some 70 words, and names are drawn


def clean(word: str) -> str:
    """Outer blanks removed (published lists have "bed " and "wood "), inner ones made single."""
    return re.sub(r"\s+", " ", word).strip()


def compared(word: str) -> str:
    """What two words that count as one have in common: case and blanks do not count."""
    return clean(word).casefold()


@dataclass(frozen=True)
class VocabularyClass:
    """One class: its name, and other words for it that CLIP is asked with too.

    Attributes:
        ask: the words CLIP is asked with, instead of name and synonyms; as they were published,
            so one may stand in two classes.
        kinds: what is of this class by its definition, in narrower or other words (`terrain`:
            grass, sand). Stage 1 looks for them too, and other vocabularies know the class by
            them; heads and other methods are asked without.
        threshold: least cosine of a pixel or a mask with the class for it to be labelled so; what
            is less similar is the background, or has no label where there is none. None: any.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    synonyms: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    threshold: float | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """Name, synonyms and what else CLIP is asked with."""
        return (self.name, *self.synonyms, *self.ask)

    @property
    def known_as(self) -> tuple[str, ...]:
        """Name, synonyms and kinds: whatever is called so is of this class."""
        return (self.name, *self.synonyms, *self.kinds)


@dataclass(frozen=True)
class Vocabulary:
    """Classes in index order (a benchmark's own order), checked when made.

    Attributes:
        name: of the vocabulary, for records and messages.
        classes: index in this tuple = value in a label map.
        background: index of the class that stands for "none of the others", or None.
        templates: template set the list was made for, or None (the configuration decides).

    Raises:
        VocabularyError: no class, an empty name, a word that stands twice (case and blanks do not
            count), one that is too long or holds control characters, a threshold that is no cosine,
            more than 65535 classes, or a background that is not a class.
    """

    name: str
    classes: tuple[VocabularyClass, ...]
    background: int | None = None
    templates: str | None = None

    def __post_init__(self) -> None:
        if not self.classes:
            raise VocabularyError(f"vocabulary {self.name!r} has no class: give at least one name")
        if len(self.classes) > DEEP_UNLABELLED:
            raise VocabularyError(
                f"vocabulary {self.name!r} has {len(self.classes)} classes: label maps hold at "
                f"most {DEEP_UNLABELLED} ({DEEP_UNLABELLED} itself means unlabelled), split it"
            )
        for entry in self.classes:
            if entry.threshold is not None and not -1 <= entry.threshold <= 1:
                raise VocabularyError(
                    f"vocabulary {self.name!r}: the threshold {entry.threshold:g} of "
                    f"{entry.name!r} is no cosine, use -1 to 1"
                )
        if self.background is not None and not 0 <= self.background < len(self.classes):
            raise VocabularyError(
                f"vocabulary {self.name!r}: background index {self.background} is not a class, "
                f"use 0 to {len(self.classes) - 1}"
            )
        if self.templates is not None and self.templates not in TEMPLATES:
            raise VocabularyError(
                f"vocabulary {self.name!r}: unknown templates {self.templates!r}, "
                f"use one of {', '.join(TEMPLATES)}"
            )
        self._refuse_duplicates()

    def __len__(self) -> int:
        """Number of classes K."""
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in index order."""
        return tuple(entry.name for entry in self.classes)

    @property
    def unlabelled(self) -> int:
        """The value of what has no label: 255, of more classes than that 65535."""
        return unlabelled(len(self))

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """[K] least cosines, -1 where a class has none; None: no class has one."""
        given = [entry.threshold for entry in self.classes]
        if all(value is None for value in given):
            return None
        return tuple(-1.0 if value is None else value for value in given)

    def require_small(self) -> Self:
        """This vocabulary, for what is done in label maps of 8 bits alone: training and scores.

        Raises:
            VocabularyError: it has more than 255 classes.
        """
        if len(self) > UNLABELLED:
            raise VocabularyError(
                f"vocabulary {self.name!r} has {len(self)} classes: training and scoring take at "
                f"most {UNLABELLED}, split the list (`fmbseg predict`, `label` and `export` take "
                "more)"
            )
        return self

    @property
    def queries(self) -> tuple[list[str], list[int]]:
        """The words CLIP is asked with, and the class index of each.

        A class is asked with its name and its synonyms. A background class that has synonyms is
        asked with those alone: they spell out what the background is made of (sky, wall, ...),
        and "background" itself is no visible thing.
        """
        words: list[str] = []
        owners: list[int] = []
        for index, entry in enumerate(self.classes):
            spelled_out = index == self.background and entry.synonyms
            own = entry.synonyms if spelled_out else (entry.name, *entry.synonyms)
            for word in entry.ask or own:
                words.append(word)
                owners.append(index)
        return words, owners

    @property
    def widened(self) -> Self:
        """The same classes, asked with their kinds too: what stage 1 looks for.

        Where the words are a published list's (`ask`), they stay as they are.
        """
        classes = tuple(
            entry
            if entry.ask or not entry.kinds
            else replace(entry, synonyms=entry.synonyms + entry.kinds, kinds=())
            for entry in self.classes
        )
        return replace(self, classes=classes)

    def unknown_to(self, others: Iterable[Vocabulary]) -> tuple[str, ...]:
        """Names of the classes that share no word with any class of other vocabularies."""
        known = {compared(word) for other in others for word in other.queries[0]}
        words, owners = self.queries
        shared = {
            owner for word, owner in zip(words, owners, strict=True) if compared(word) in known
        }
        return tuple(name for index, name in enumerate(self.names) if index not in shared)

    @property
    def digest(self) -> str:
        """Hex sha256 of what decides a result: words, thresholds, background, templates."""
        content = {
            # What a class does not have is left out: digests of lists without it stay.
            "classes": [
                [
                    entry.name,
                    list(entry.synonyms),
                    *([list(entry.ask)] if entry.ask else []),
                    *([{"kinds": list(entry.kinds)}] if entry.kinds else []),
                    *([] if entry.threshold is None else [entry.threshold]),
                ]
                for entry in self.classes
            ],
            "background": self.background,
            "templates": self.templates,
        }
        return json_digest(content)

    def record(self) -> dict[str, Any]:
        """Everything of the vocabulary as a JSON object, and its digest."""
        return {**asdict(self), "digest": self.digest}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The vocabulary whose `record` this is.

        Raises:
            VocabularyError: it is not that of its digest: words were lost or changed.
            KeyError, TypeError: it is no record.
        """
        classes = tuple(
            VocabularyClass(
                entry["name"],
                tuple(entry["synonyms"]),
                tuple(entry.get("ask", ())),
                tuple(entry.get("kinds", ())),
                entry.get("threshold"),
            )
            for entry in record["classes"]
        )
        found = cls(record["name"], classes, record["background"], record["templates"])
        if found.digest != record["digest"]:
            raise VocabularyError(
                f"vocabulary {found.name!r}: its words are not those that its digest is of"
            )
        return found

    def _refuse_odd(self, word: str) -> None:
        if len(word) > _LONGEST:
            raise VocabularyError(
                f"vocabulary {shown(self.name)!r}: {shown(word[:40])!r}... has {len(word)} "
                f"characters: shorten it to {_LONGEST}"
            )
        if any(map(is_control, word)):
            raise VocabularyError(
                f"vocabulary {shown(self.name)!r}: {shown(word)!r} holds a control character: "
                "remove it"
            )

    def _refuse_duplicates(self) -> None:
        seen: dict[str, str] = {}
        for word in (word for entry in self.classes for word in entry.ask):
            self._refuse_odd(word)
        for entry in self.classes:
            for word in entry.known_as:  # `ask` is as it was published
                key = compared(word)
                self._refuse_odd(word)
                if not key:
                    raise VocabularyError(
                        f"vocabulary {self.name!r} has an empty name: remove it or name the class"
                    )
                if key in seen:
                    raise VocabularyError(
                        f"vocabulary {self.name!r}: {word.strip()!r} stands twice (in class "
                        f"{seen[key]!r} and in class {entry.name!r}): remove one of them"
                    )
                seen[key] = entry.name
