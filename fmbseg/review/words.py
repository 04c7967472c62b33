"""Why a mask is doubtful, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fmbseg.review.ranking import Ranking, contributions

_SAID = 2  # reasons a mask is given
_LEAST = 0.15  # that a sign adds to the exponent to be worth a word

Reason = Callable[[Ranking, int, Sequence[str]], str]


def _similarity(ranking: Ranking, index: int, names: Sequence[str]) -> str:
    masks = ranking.collected.masks
    return (
        f"CLIP finds little of {names[masks.classes[index]]} in it ({masks.similarity[index]:.2f})"
    )


def _margin(ranking: Ranking, index: int, names: Sequence[str]) -> str:
    margin = ranking.collected.masks.margin[index]
    return f"another class of the picture is {'nearer' if margin < 0 else 'as near'} to CLIP"


def _sources(ranking: Ranking, index: int, names: Sequence[str]) -> str:
    share = 100 * ranking.collected.masks.sources[index]
    return f"queried and automatic masks differ here ({share:.0f} %)"


def _head(ranking: Ranking, index: int, names: Sequence[str]) -> str:
    masks = ranking.collected.masks
    said = _otherwise(masks.head_says[index], masks.classes[index], names)
    return f"the trained head calls {100 * masks.head[index]:.0f} % of it otherwise{said}"


def _neighbours(ranking: Ranking, index: int, names: Sequence[str]) -> str:
    near, own = ranking.near, ranking.collected.masks.classes[index]
    said = _otherwise(int(near.says[index]), own, names)
    return f"{100 * near.other[index]:.0f} % of the masks most alike are called otherwise{said}"


def _otherwise(says: int, own: int, names: Sequence[str]) -> str:
    return "" if says == own else f", such as {names[says]}"


_REASONS: Mapping[str, Reason] = {
    "similarity": _similarity,
    "margin": _margin,
    "sources": _sources,
    "head": _head,
    "neighbours": _neighbours,
}


def reasons(ranking: Ranking, names: Sequence[str]) -> list[str]:
    """What speaks most against each of M masks; `names` of the classes."""
    parts = contributions(ranking.signs)
    found = []
    for index in range(len(ranking.doubt)):
        values = {name: float(part[index]) for name, part in parts.items()}
        against = sorted((n for n in values if values[n] >= _LEAST), key=lambda n: -values[n])
        said = [_REASONS[name](ranking, index, names) for name in against[:_SAID]]
        found.append("; ".join(said) or "nothing speaks against it")
    return found
