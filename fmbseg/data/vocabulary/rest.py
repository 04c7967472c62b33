"""The rest: the class of what is none of the classes that someone has named.

It is the vocabulary's background with words of its own, so detection, querying, classification,
predictions, scores and exports need no rule of theirs. It gets words where a list says what its
classes are not (`-wolf`), where a rest is wanted (`--rest NAME`), and where one class is named
alone, which would be the best of one everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache

from fmbseg.data.vocabulary.classes import Vocabulary, VocabularyClass, compared
from fmbseg.data.vocabulary.files import shipped, vocabulary_names
from fmbseg.errors import VocabularyError

REST = "background"
"""Its name, where none is given."""

CONTRASTS = "coco_stuff"
"""The shipped vocabulary whose words it is asked with.

One list, whose names part the world: of several lists one has `terrain` where another has `grass`,
and takes it away. Measured in docs/results.md.
"""

# What benchmarks call by two names, besides the synonyms in their vocabularies.
_TWICE_NAMED = (
    ("aeroplane", "airplane"),
    ("motorbike", "motorcycle"),
    ("sofa", "couch"),
    ("tv monitor", "tv"),
    ("pavement", "sidewalk"),
    ("person", "pedestrian", "people", "man", "woman", "child"),
)


def with_rest(
    vocabulary: Vocabulary, rest: str | None = None, negatives: Iterable[str] = ()
) -> Vocabulary:
    """A vocabulary with the class that the rest is, where it is to have one.

    Args:
        vocabulary: that has been named.
        rest: name of the class; one that is there becomes it. None: one is added, `REST`, where
            there is one class alone, or a negative.
        negatives: words that are no class.

    Returns:
        The same vocabulary, or one with a background: asked with the negatives and, where `rest`
        was given or one class is alone, with the contrasts. A class that is added comes last.

    Raises:
        VocabularyError: there is a background already, or a negative is a word of a class.
    """
    negatives = tuple(negatives)
    contrasted = rest is not None or len(vocabulary) == 1
    if vocabulary.background is not None:
        if rest in (None, vocabulary.names[vocabulary.background]) and not negatives:
            return vocabulary
        raise VocabularyError(
            f"vocabulary {vocabulary.name!r} has the background "
            f"{vocabulary.names[vocabulary.background]!r}: give it synonyms in place of a rest"
        )
    if not contrasted and not negatives:
        return vocabulary
    name = REST if rest is None else rest
    there = [index for index, known in enumerate(vocabulary.names) if same(known, name)]
    index = there[0] if there else len(vocabulary)
    classes = [*vocabulary.classes]
    own = classes.pop(index) if there else VocabularyClass(name)
    told = {compared(word) for entry in classes for word in entry.words}
    told |= {compared(word) for word in (*own.words, *negatives)}
    more = [word for word in contrasts(told) if contrasted]
    classes.insert(index, replace(own, synonyms=(*own.synonyms, *negatives, *more)))
    if not classes[index].synonyms or len(classes) == 1:
        raise VocabularyError(f"name a class besides the rest {name!r}")
    return replace(vocabulary, classes=tuple(classes), background=index)


def contrasts(told: Iterable[str], of: str = CONTRASTS) -> tuple[str, ...]:
    """Words of one of our vocabularies that contrast with some words, each once.

    A class of ours is left out with all its words where one of them means what a word does, or
    includes it (`brick wall`, `wall`): it would take away what that word is asked for.
    """
    told = frozenset(map(compared, told))
    alike = told.union(*(words for words in _known_classes() if _share(words, told)))
    left = [words for words in _contrasting_classes(of) if not _share(words, alike)]
    return tuple(dict.fromkeys(word for words in left for word in words))


def also_called(word: str) -> tuple[str, ...]:
    """Other words for the same, as far as our vocabularies know them."""
    wanted = compared(word)
    known = (words for words in _known_classes() if wanted in words)
    return tuple(dict.fromkeys(each for words in known for each in words if each != wanted))


def same(word: str, other: str) -> bool:
    """Whether two words count as one."""
    return compared(word) == compared(other)


def _share(words: Iterable[str], others: Iterable[str]) -> bool:
    """Whether one of some compared words is one of others, its plural, or a kind of it."""
    return any(
        long == short + plural or long.endswith(f" {short}{plural}")
        for word in words
        for other in others
        for long, short in ((word, other), (other, word))
        for plural in ("", "s", "es")
    )


@cache
def _contrasting_classes(of: str) -> tuple[tuple[str, ...], ...]:
    return tuple(_words([shipped(of)]))


@cache
def _known_classes() -> tuple[tuple[str, ...], ...]:
    """All that are known to be called by several words."""
    several = (words for words in _words(map(shipped, vocabulary_names())) if len(words) > 1)
    return (*_TWICE_NAMED, *several)


def _words(vocabularies: Iterable[Vocabulary]) -> Iterator[tuple[str, ...]]:
    """Of each class its words; of a background each is one of its own."""
    for vocabulary in vocabularies:
        for index, entry in enumerate(vocabulary.classes):
            if index == vocabulary.background:
                yield from ((compared(word),) for word in entry.synonyms)
            else:
                yield tuple(compared(word) for word in entry.words)
