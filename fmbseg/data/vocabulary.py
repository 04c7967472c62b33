"""Vocabularies: the classes an image is segmented into, and the words CLIP is asked with.

A vocabulary is data: one YAML file per benchmark lies in `vocabularies/`, and a user's own file
has the same form::

    name: pets
    description: my own classes       # optional
    background: background            # optional: name of the class that stands for "none of these"
    templates: imagenet80             # optional: the template set this list was made for
    classes:
      - dog
      - {name: cat, synonyms: [kitten, tabby]}
      - {name: background, synonyms: [wall, floor]}

`{name: cat, ask: [pussycat]}` asks CLIP with exactly these words instead of name and synonyms. A
variant takes classes, order and background of another vocabulary and says the words alone, those
of classes it does not list being their names; the lists published with SCLIP and ProxyCLIP are
such files, `sclip/voc21` and `proxyclip/voc21` their names::

    of: voc21
    ask:
      boat: [ship]
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fmbseg.data.class_list import class_lines, read_text
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.templates import TEMPLATES
from fmbseg.documents import parse_yaml
from fmbseg.errors import VocabularyError, is_control, shown
from fmbseg.store.digest import json_digest

_FOLDER = Path(__file__).parent / "vocabularies"
_KEYS = {"name", "description", "background", "templates", "classes"}
_VARIANT_KEYS = {"name", "description", "templates", "of", "ask"}
_VARIANTS = ("sclip", "proxyclip")
_YAML = (".yaml", ".yml")
_log = logging.getLogger(__name__)
_LONGEST = 200  # characters of a name: CLIP reads some 70 words, and names are drawn
_FORM = "expected `classes:` with names or {name: ..., synonyms: [...]}"


@dataclass(frozen=True)
class VocabularyClass:
    """One class: its name, and other words for it that CLIP is asked with too.

    Attributes:
        ask: the words CLIP is asked with, instead of name and synonyms; as they were published,
            so one may stand in two classes.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    name: str
    synonyms: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()


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
            count), one that is too long or holds control characters, more than 255 classes, or a
            background that is not a class.
    """

    name: str
    classes: tuple[VocabularyClass, ...]
    background: int | None = None
    templates: str | None = None

    def __post_init__(self) -> None:
        if not self.classes:
            raise VocabularyError(f"vocabulary {self.name!r} has no class: give at least one name")
        if len(self.classes) > UNLABELLED:
            raise VocabularyError(
                f"vocabulary {self.name!r} has {len(self.classes)} classes: label maps hold at "
                f"most {UNLABELLED} ({UNLABELLED} itself means unlabelled), split the list"
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

    def unknown_to(self, others: Iterable[Vocabulary]) -> tuple[str, ...]:
        """Names of the classes that share no word with any class of other vocabularies."""
        known = {_compared(word) for other in others for word in other.queries[0]}
        words, owners = self.queries
        shared = {
            owner for word, owner in zip(words, owners, strict=True) if _compared(word) in known
        }
        return tuple(name for index, name in enumerate(self.names) if index not in shared)

    @property
    def digest(self) -> str:
        """Hex sha256 of what decides a result: classes, synonyms, background, templates."""
        content = {
            "classes": [
                [entry.name, list(entry.synonyms), *([list(entry.ask)] if entry.ask else [])]
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
            VocabularyClass(entry["name"], tuple(entry["synonyms"]), tuple(entry.get("ask", ())))
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
            for word in (entry.name, *entry.synonyms):  # `ask` is as it was published
                key = _compared(word)
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


def vocabulary_names() -> tuple[str, ...]:
    """Names of the vocabularies that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def variant_names() -> tuple[str, ...]:
    """Names of the published word lists that come with the package, such as sclip/voc21."""
    paths = (path for variant in _VARIANTS for path in sorted((_FOLDER / variant).glob("*.yaml")))
    return tuple(f"{path.parent.name}/{path.stem}" for path in paths)


def load_vocabulary(name_or_path: str | Path) -> Vocabulary:
    """A vocabulary of the package by its name, or a user's file by its path.

    A file that ends in .txt is a plain list: a line a class name.

    Raises:
        VocabularyError: neither is there, the file is not a vocabulary, or its words clash.
    """
    shipped = _FOLDER / f"{name_or_path}.yaml"
    known = {*vocabulary_names(), *variant_names()}
    path = shipped if str(name_or_path) in known else Path(name_or_path)
    if not path.is_file():
        if path.suffix in (".txt", *_YAML):
            raise VocabularyError(f"{path} does not exist: give the file of your class names")
        raise VocabularyError(
            f"no vocabulary {str(name_or_path)!r}: give a YAML file or one of "
            f"{', '.join(vocabulary_names())} (or sclip/NAME, proxyclip/NAME)"
        )
    if path.suffix == ".txt":
        return vocabulary_from_text(path, separator=None)
    text = read_text(path, "vocabulary")
    return _parse(parse_yaml(text, path, VocabularyError), path)


def reworded(own: Vocabulary, wanted: str | None) -> Vocabulary:
    """A benchmark's classes, asked with another vocabulary's words.

    Args:
        own: the benchmark's own vocabulary.
        wanted: name or path as `load_vocabulary` takes it, or a peer's name alone (sclip,
            proxyclip): its list for this benchmark. None: `own`.

    Raises:
        VocabularyError: no such vocabulary, or its classes are not those of `own` in their order:
            every score would then stand for another class.
    """
    if wanted is None:
        return own
    found = load_vocabulary(f"{wanted}/{own.name}" if wanted in _VARIANTS else wanted)
    if found.names == own.names:
        return found
    differing = [
        f"class {index} is {name!r} instead of {expected!r}"
        for index, (name, expected) in enumerate(zip(found.names, own.names, strict=False))
        if name != expected
    ]
    reason = differing[0] if differing else f"{len(found)} classes instead of {len(own)}"
    raise VocabularyError(
        f"vocabulary {wanted!r} does not have the classes of {own.name!r}: {reason}; write `of: "
        f"{own.name}` with `ask:`, or import a list with `fmbseg data vocabulary --of {own.name}`"
    )


def vocabulary_from_names(names: Sequence[str], name: str = "custom") -> Vocabulary:
    """A vocabulary of plain names without synonyms and without background.

    A class called background is a word like any other, and a warning says so.

    >>> vocabulary_from_names(["dog", "grass"]).names
    ('dog', 'grass')

    Raises:
        VocabularyError: no names, an empty one, one that stands twice, or one with a comma, a
            semicolon or a bar: those are two.
    """
    if isinstance(names, str):
        raise VocabularyError(f"class names are one string {names!r}: give a list of names")
    for word in names:
        if found := _left_over(word):
            raise VocabularyError(f"{word!r} holds {found!r}: part class names with commas alone")
    _warn_of_background(name, names)
    return Vocabulary(name, tuple(VocabularyClass(_clean(word)) for word in names))


def vocabulary_from_text(
    path: str | Path,
    *,
    separator: str | None,
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
        separator: between the words of one class, e.g. "; "; None: a line is one name.
        background: name of the class that is the background, if any.
        of: name of the vocabulary whose classes the lines are, in its order; it also says which
            class is the background.

    Raises:
        VocabularyError: unreadable file, a left-over separator, words that clash, or another
            number of lines than `of` has classes.
    """
    path = Path(path)
    mark = separator.strip() if separator is not None else None
    if mark == "":
        raise VocabularyError("the separator is blank: give a mark such as ',' or ';'")
    rows = []
    for number, line in class_lines(path, plain=mark is None):
        _warn_of_blanks(f"{path} line {number}", line, separator)
        words = [_clean(word) for word in (line.split(mark) if mark else [line])]
        if left_over := _left_over("".join(words)):
            raise VocabularyError(
                f"{path} line {number} holds {left_over!r} after splitting at "
                f"{separator!r}: give the separator this file uses"
            )
        rows.append(tuple(words))
    if of is not None:
        return _asking(load_vocabulary(of), rows, path)
    classes = tuple(VocabularyClass(words[0], words[1:]) for words in rows)
    if background is None:
        _warn_of_background(str(path), [entry.name for entry in classes])
    return Vocabulary(path.stem, classes, _background_index(background, classes, path))


def vocabulary_yaml(vocabulary: Vocabulary) -> str:
    """The vocabulary in the form of a vocabulary file."""
    classes: list[Any] = []
    for entry in vocabulary.classes:
        more = {key: list(getattr(entry, key)) for key in ("synonyms", "ask")}
        given = {key: words for key, words in more.items() if words}
        classes.append({"name": entry.name, **given} if given else entry.name)
    background = vocabulary.background
    content = {
        "name": vocabulary.name,
        "background": None if background is None else vocabulary.names[background],
        "templates": vocabulary.templates,
        "classes": classes,
    }
    kept = {key: value for key, value in content.items() if value is not None}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=96)


def _left_over(text: str) -> str | None:
    """A mark that parts words, where it stands in what should be one; None: there is none."""
    return next((mark for mark in (",", ";", "|") if mark in text), None)


def _warn_of_background(place: str, names: Sequence[str]) -> None:
    if any(_compared(name) == "background" for name in names):
        _log.warning(
            "%s: CLIP is asked for the word 'background' as for any other; for pixels of no other "
            "class take a YAML file with `background: background`",
            place,
        )


def _warn_of_blanks(place: str, line: str, separator: str | None) -> None:
    if line != line.strip() or "  " in line.strip():
        _log.warning("%s: stray blanks removed from %r", place, line)
    mark = (separator or "").strip()
    if mark and separator != mark and mark in line.replace(separator or mark, ""):
        # Readers that split at the separator with its blank take both words for one prompt.
        _log.warning("%s: %r without its blank taken as the separator too", place, mark)


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
    owners = Counter(_compared(word) for words in rows for word in dict.fromkeys(words))
    for word in (word for word, count in owners.items() if count > 1):
        _log.warning("%s: %r stands in two classes, the first wins a tie", path, word)
    return Vocabulary(path.stem, classes, base.background)


def _parse(raw: Any, path: Path) -> Vocabulary:
    variant = isinstance(raw, Mapping) and "of" in raw
    if not isinstance(raw, Mapping) or not (variant or isinstance(raw.get("classes"), list)):
        raise VocabularyError(f"{path} is not a vocabulary: {_FORM}")
    keys, kind = (_VARIANT_KEYS, " of a variant") if variant else (_KEYS, "")
    if unknown := sorted(str(key) for key in set(raw) - keys):
        known = ", ".join(sorted(keys))
        raise VocabularyError(f"{path}: unknown key {unknown[0]!r}{kind}, use {known}")
    templates = raw.get("templates")
    if templates is not None and not isinstance(templates, str):
        raise VocabularyError(f"{path}: templates names a set, one of {', '.join(TEMPLATES)}")
    default = path.stem
    if variant:
        classes, background = _variant_classes(raw, path)
        if path.parent.parent == _FOLDER:
            default = f"{path.parent.name}/{path.stem}"
    else:
        classes = tuple(_parse_class(entry, path) for entry in raw["classes"])
        background = _background_index(raw.get("background"), classes, path)
    return Vocabulary(str(raw.get("name", default)), classes, background, templates)


def _variant_classes(
    raw: Mapping[str, Any], path: Path
) -> tuple[tuple[VocabularyClass, ...], int | None]:
    """Classes and background of the vocabulary a variant is of, in the variant's words."""
    if raw["of"] not in vocabulary_names():
        known = ", ".join(vocabulary_names())
        raise VocabularyError(f"{path}: no vocabulary {raw['of']!r} to be `of`: use one of {known}")
    base, ask = load_vocabulary(raw["of"]), raw.get("ask") or {}
    if not isinstance(ask, Mapping):
        raise VocabularyError(f"{path}: `ask` holds class names and their words")
    for name, words in ask.items():
        listed = isinstance(words, list) and words and all(isinstance(w, str) for w in words)
        if name not in base.names or not listed:
            raise VocabularyError(
                f"{path}: {name!r} must be a class of {base.name}, with a list of words"
            )
    classes = tuple(VocabularyClass(name, ask=tuple(ask.get(name, (name,)))) for name in base.names)
    return classes, base.background


def _parse_class(entry: Any, path: Path) -> VocabularyClass:
    given = entry if isinstance(entry, Mapping) else {"name": entry}
    try:
        found = TypeAdapter(VocabularyClass).validate_python(
            {key: value for key, value in given.items() if value is not None}
        )
    except ValidationError as error:
        # YAML reads a bare `no` or `1` as another type; quoting is the way out.
        raise VocabularyError(
            f"{path}: class {entry!r} is not understood, {_FORM} (quote odd names)"
        ) from error
    # What is asked stays as it is written: a published list may hold a stray blank.
    return VocabularyClass(_clean(found.name), tuple(map(_clean, found.synonyms)), found.ask)


def _background_index(
    background: Any, classes: Sequence[VocabularyClass], path: Path
) -> int | None:
    names = [entry.name for entry in classes]
    if background is None:
        return None
    if background not in names:
        raise VocabularyError(
            f"{path}: background {background!r} is not among the classes, add it or correct it"
        )
    return names.index(background)


def _clean(word: str) -> str:
    """Outer blanks removed (published lists have "bed " and "wood "), inner ones made single."""
    return re.sub(r"\s+", " ", word).strip()


def _compared(word: str) -> str:
    return _clean(word).casefold()
