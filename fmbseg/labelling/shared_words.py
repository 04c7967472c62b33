"""Classes that stage 1 cannot find, because their words are one to CLIP with an earlier class's."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fmbseg.data.vocabulary import Vocabulary
from fmbseg.models.text import TextEmbeddings

_NAMED = 8
_AT_ONCE = 256  # classes beside all words


def shared_words(
    words: Vocabulary, text: TextEmbeddings, looked_for: TextEmbeddings
) -> dict[str, str]:
    """Classes without a word of their own, and the class that has the word most like their name.

    Args:
        words: K classes.
        text: embeddings of all their words.
        looked_for: of those that stage 1 looks for, see `fmbseg.pseudo.detection.looked_for`.
    """
    left = sorted({*range(len(words))} - {*looked_for.query_class.tolist(), words.background})
    if not left:
        return {}
    names = text.queries[
        torch.searchsorted(text.query_class, torch.tensor(left, device=text.query_class.device))
    ]
    nearest = torch.cat(
        [(some @ looked_for.queries.T).argmax(dim=1) for some in torch.split(names, _AT_ONCE)]
    )
    owners = looked_for.query_class[nearest].tolist()
    return {words.names[a]: words.names[b] for a, b in zip(left, owners, strict=True)}


def shared_words_line(shared: Mapping[str, str], most: int = _NAMED) -> str:
    """What a user is told of `shared_words`; of many classes the first `most` are named."""
    named = [f"{name} as {other}" for name, other in [*shared.items()][:most]]
    more = f" and {len(shared) - most} more" if len(shared) > most else ""
    return f"one to CLIP, so labelled as the class that stands first: {', '.join(named)}{more}"
