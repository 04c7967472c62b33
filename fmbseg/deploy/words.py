"""The file of words: names, embeddings and how they are asked, for who has neither CLIP nor us."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import ConfigError
from fmbseg.inference.protocol import protocol_of
from fmbseg.inference.segmenter import Segmenter

_NONE = -1


def words_file(segmenter: Segmenter, vocabulary: Vocabulary) -> bytes:
    """The content of a NumPy archive (`.npz`), to be read without pickle.

    It holds `names` [K], `embeddings` [Q, D] float32 unit vectors, a row a word, and `first` [K],
    the row of each class's first word (a row of zeros where a class is not asked,
    `inference.same_words`); `short_side` and `patch`, pixels; `min_region`, the share of
    the grid that a class's largest region takes if it is in the picture; `background`, the index of
    the class that pixels below `threshold` become, -1: none do; `logit_scale`, of the softmax whose
    highest probability that is.

    Raises:
        ConfigError: it is asked in a way that needs more than this file and the graph.
    """
    text = segmenter.text(vocabulary)
    unasked = np.setdiff1d(np.arange(len(text)), text.worded.cpu().numpy())
    owners = np.concatenate([text.query_class.cpu().numpy(), unasked])
    nothing = np.zeros((len(unasked), text.queries.shape[1]), np.float32)
    rows = np.concatenate([text.queries.cpu().numpy().astype(np.float32), nothing])
    order = np.argsort(owners, kind="stable")
    content: dict[str, npt.NDArray[Any]] = {
        "names": np.array(vocabulary.names),
        "embeddings": rows[order],
        "first": np.searchsorted(owners[order], np.arange(len(text))),
        **{name: np.array(value) for name, value in asking(segmenter, vocabulary).items()},
    }
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **content)
    return stream.getvalue()


def asking(segmenter: Segmenter, vocabulary: Vocabulary) -> dict[str, int | float]:
    """Sizes and background rule of a vocabulary; see `words_file`."""
    section = segmenter.inference
    protocol = protocol_of(section)
    if protocol.name != "fmbseg":
        raise ConfigError(
            f"the head is asked by protocol {protocol.name}, whose windows no exported model has: "
            "--set evaluate.protocol=fmbseg"
        )
    if vocabulary.thresholds is not None:
        raise ConfigError(
            f"vocabulary {vocabulary.name!r} has thresholds of single classes, which an exported "
            "model does not know: leave them out"
        )
    background, rule = vocabulary.background, protocol.background_rule
    if background is not None and rule == "constant":
        raise ConfigError(
            "background rule constant leaves words out, which an exported model cannot: "
            "--set evaluate.background_rule=probability (or words)"
        )
    return {
        "short_side": section.short_side,
        "patch": segmenter.backbone.patch_size,
        "min_region": section.min_region,
        "background": _NONE if background is None or rule == "words" else background,
        "logit_scale": section.logit_scale,
        "threshold": section.background_threshold,
    }
