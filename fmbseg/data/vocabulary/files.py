"""Vocabularies as YAML files: those of the package by their names, and a user's own.

One file a benchmark lies in `vocabularies/`, and a user's own has the same form::

    name: pets
    description: my own classes       # optional
    background: background            # optional: name of the class that stands for "none of these"
    templates: imagenet80             # optional: the template set this list was made for
    classes:
      - dog
      - {name: cat, synonyms: [kitten, tabby], threshold: 0.24}
      - {name: background, synonyms: [wall, floor]}

`{name: cat, ask: [pussycat]}` asks CLIP with exactly these words instead of name and synonyms,
`{name: pet, kinds: [cat, dog]}` has stage 1 look for these words as well. A variant takes classes,
order and background of another vocabulary and says the words alone, those of classes it does not
list being their names; the lists published with SCLIP and ProxyCLIP are
such files, `sclip/voc21` and `proxyclip/voc21` their names::

    of: voc21
    ask:
      boat: [ship]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from fmbseg.data.class_list import read_text
from fmbseg.data.templates import TEMPLATES
from fmbseg.data.vocabulary.classes import Vocabulary, VocabularyClass, clean
from fmbseg.documents import parse_yaml
from fmbseg.errors import VocabularyError

VARIANTS = ("sclip", "proxyclip")
"""Whose word lists come with the package beside the benchmarks' own."""

_FOLDER = Path(__file__).parents[1] / "vocabularies"
_KEYS = {"name", "description", "background", "templates", "classes"}
_VARIANT_KEYS = {"name", "description", "templates", "of", "ask"}
_FORM = "expected `classes:` with names or {name: ..., synonyms: [...]}"
_CLASS = TypeAdapter(VocabularyClass)


def vocabulary_names() -> tuple[str, ...]:
    """Names of the vocabularies that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def variant_names() -> tuple[str, ...]:
    """Names of the published word lists that come with the package, such as sclip/voc21."""
    paths = (path for variant in VARIANTS for path in sorted((_FOLDER / variant).glob("*.yaml")))
    return tuple(f"{path.parent.name}/{path.stem}" for path in paths)


def shipped_file(name: str) -> Path | None:
    """The file of a vocabulary of the package; None: it has none of that name."""
    known = name in {*vocabulary_names(), *variant_names()}
    return _FOLDER / f"{name}.yaml" if known else None


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a YAML file.

    Raises:
        VocabularyError: it cannot be read, is no vocabulary, or its words clash.
    """
    return _parse(parse_yaml(read_text(path, "vocabulary"), path, VocabularyError), path)


def shipped(name: str) -> Vocabulary:
    """A vocabulary of the package; raises KeyError where it has none of that name."""
    path = shipped_file(name)
    if path is None:
        raise KeyError(name)
    return read_vocabulary(path)


def vocabulary_yaml(vocabulary: Vocabulary) -> str:
    """The vocabulary in the form of a vocabulary file."""
    classes: list[Any] = []
    for entry in vocabulary.classes:
        more = {key: list(getattr(entry, key)) for key in ("synonyms", "ask", "kinds")}
        given: dict[str, Any] = {key: words for key, words in more.items() if words}
        if entry.threshold is not None:
            given["threshold"] = entry.threshold
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


def background_index(background: Any, classes: Sequence[VocabularyClass], path: Path) -> int | None:
    """Index of the class that a file calls its background; raises VocabularyError: it is none."""
    names = [entry.name for entry in classes]
    if background is None:
        return None
    if background not in names:
        raise VocabularyError(
            f"{path}: background {background!r} is not among the classes, add it or correct it"
        )
    return names.index(background)


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
        background = background_index(raw.get("background"), classes, path)
    return Vocabulary(str(raw.get("name", default)), classes, background, templates)


def _variant_classes(
    raw: Mapping[str, Any], path: Path
) -> tuple[tuple[VocabularyClass, ...], int | None]:
    """Classes and background of the vocabulary a variant is of, in the variant's words."""
    if raw["of"] not in vocabulary_names():
        known = ", ".join(vocabulary_names())
        raise VocabularyError(f"{path}: no vocabulary {raw['of']!r} to be `of`: use one of {known}")
    base, ask = shipped(raw["of"]), raw.get("ask") or {}
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
        found = _CLASS.validate_python(
            {key: value for key, value in given.items() if value is not None}
        )
    except ValidationError as error:
        # YAML reads a bare `no` or `1` as another type; quoting is the way out.
        raise VocabularyError(
            f"{path}: class {entry!r} is not understood, {_FORM} (quote odd names)"
        ) from error
    # What is asked stays as it is written: a published list may hold a stray blank.
    return replace(found, name=clean(found.name), synonyms=tuple(map(clean, found.synonyms)))
