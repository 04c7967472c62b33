"""Vocabularies by name or file, and a benchmark's classes in other words."""

from __future__ import annotations

from pathlib import Path

from fmbseg.data.vocabulary.classes import Vocabulary
from fmbseg.data.vocabulary.files import VARIANTS, read_vocabulary, shipped_file, vocabulary_names
from fmbseg.data.vocabulary.names import vocabulary_from_lines
from fmbseg.errors import VocabularyError

_YAML = (".yaml", ".yml")


def load_vocabulary(name_or_path: str | Path) -> Vocabulary:
    """A vocabulary of the package by its name, or a user's file by its path.

    A file that ends in .txt is a plain list: a line a class, see `fmbseg.data.vocabulary.grammar`.

    Raises:
        VocabularyError: neither is there, the file is not a vocabulary, or its words clash.
    """
    known = shipped_file(str(name_or_path))
    path = Path(name_or_path) if known is None else known
    if not path.is_file():
        if path.suffix in (".txt", *_YAML):
            raise VocabularyError(f"{path} does not exist: give the file of your class names")
        raise VocabularyError(
            f"no vocabulary {str(name_or_path)!r}: give a YAML file or one of "
            f"{', '.join(vocabulary_names())} (or sclip/NAME, proxyclip/NAME)"
        )
    return vocabulary_from_lines(path) if path.suffix == ".txt" else read_vocabulary(path)


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
    found = load_vocabulary(f"{wanted}/{own.name}" if wanted in VARIANTS else wanted)
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
