"""Words of different classes that are one to CLIP, and what tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from fmbseg.data.templates import TEMPLATES
from fmbseg.data.vocabulary import Vocabulary, VocabularyClass
from fmbseg.data.vocabulary.rest import also_called
from fmbseg.models.clip import ClipModel
from fmbseg.models.text import SAME_TO_CLIP, TextEmbeddings

# Cosines that are held at once: 64 MB in float32.
_AT_ONCE = 1 << 24

Cosine = Callable[[str, str], float]


@dataclass(frozen=True)
class Pair:
    """Two words of different classes.

    Attributes:
        classes: their names.
        words: with which the two are asked.
        cosine: of their texts.
    """

    classes: tuple[str, str]
    words: tuple[str, str]
    cosine: float


@dataclass(frozen=True)
class Collision:
    """A pair that is one to CLIP.

    Attributes:
        pair: the pair.
        by_templates: its cosine with each template set.
        other_words: other words for one of the two classes, and the higher of the cosines that they
            have with words of the other class; those alone that are told apart.
    """

    pair: Pair
    by_templates: Mapping[str, float]
    other_words: tuple[tuple[str, str, float], ...]

    @property
    def separating(self) -> tuple[str, ...]:
        """Template sets that tell the two apart."""
        return tuple(name for name, cosine in self.by_templates.items() if cosine < SAME_TO_CLIP)


def nearest_pairs(words: Vocabulary, text: TextEmbeddings, most: int) -> list[Pair]:
    """The words of different classes that are most alike, of two classes the nearest two.

    Args:
        words: K classes, Q words.
        text: their embeddings.
        most: how many pairs.

    Returns:
        The most alike first. Memory does not grow with Q squared.
    """
    queries, owners = words.queries
    found: dict[tuple[int, int], tuple[float, int, int]] = {}
    step = max(1, _AT_ONCE // len(queries))
    for start in range(0, len(queries), step):
        for cosine, i, j in _nearest_of(text, start, step, most * 4):
            pair = (owners[i], owners[j])
            if cosine > found.get(pair, (-1.0,))[0]:
                found[pair] = (cosine, i, j)
    best = sorted(found.items(), key=lambda item: (-item[1][0], item[1][1:]))[:most]
    return [
        Pair(
            (words.names[a], words.names[b]),
            (queries[i], queries[j]),
            cosine,
        )
        for (a, b), (cosine, i, j) in best
    ]


def _nearest_of(
    text: TextEmbeddings, start: int, step: int, most: int
) -> Iterator[tuple[float, int, int]]:
    """The highest cosines of some words with those after them, of other classes."""
    part = text.queries[start : start + step]
    cosines = part @ text.queries.T
    rows = torch.arange(start, start + len(part), device=cosines.device)[:, None]
    columns = torch.arange(len(text.queries), device=cosines.device)[None]
    same = text.query_class[start : start + step][:, None] == text.query_class[None]
    cosines.masked_fill_(same | (columns <= rows), -2.0)
    values, places = cosines.flatten().topk(min(most, cosines.numel()))
    for value, place in zip(values.tolist(), places.tolist(), strict=True):
        if value > -2.0:
            i, j = divmod(place, len(text.queries))
            yield value, start + i, j


def explained(
    pairs: Sequence[Pair], words: Vocabulary, clip: ClipModel, templates: str
) -> list[Collision]:
    """What tells apart the pairs that are one to CLIP.

    Args:
        pairs: as `nearest_pairs` gives them.
        words: the vocabulary.
        clip: whose text space it is.
        templates: with which it is asked.
    """
    same = [pair for pair in pairs if pair.cosine >= SAME_TO_CLIP]
    if not same:
        return []
    involved = {name: words.classes[words.names.index(name)] for p in same for name in p.classes}
    others = {name: _other_words(entry) for name, entry in involved.items()}
    asked = [word for pair in same for word in pair.words]
    asked += [word for name, entry in involved.items() for word in (*others[name], *entry.words)]
    spaces = {name: _cosine(asked, clip, name) for name in TEMPLATES}
    found = []
    for pair in same:
        by_templates = {name: cosine(*pair.words) for name, cosine in spaces.items()}
        more = tuple(_apart(pair, involved, others, spaces[templates]))
        found.append(Collision(pair, by_templates, more))
    return found


def _other_words(entry: VocabularyClass) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for own in entry.words for word in also_called(own)))


def _apart(
    pair: Pair,
    involved: Mapping[str, VocabularyClass],
    others: Mapping[str, tuple[str, ...]],
    cosine: Cosine,
) -> Iterator[tuple[str, str, float]]:
    for name, rival in (pair.classes, pair.classes[::-1]):
        for word in (*involved[name].words, *others[name]):
            if word in pair.words:
                continue
            nearest = max(cosine(word, other) for other in involved[rival].words)
            if nearest < SAME_TO_CLIP:
                yield name, word, nearest


def _cosine(asked: Sequence[str], clip: ClipModel, templates: str) -> Cosine:
    words = list(dict.fromkeys(asked))
    entry = VocabularyClass("asked", ask=tuple(words))
    queries = clip.text_embeddings(Vocabulary("asked", (entry,)), templates).queries
    places = {word: index for index, word in enumerate(words)}
    cosines = (queries @ queries.T).cpu()

    def cosine(word: str, other: str) -> float:
        return float(cosines[places[word], places[other]])

    return cosine
