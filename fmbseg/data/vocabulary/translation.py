"""The classes of one vocabulary said in another: what truth says in other words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary.classes import Vocabulary, compared

_MADE_OF = {"brick wall": "wall", "stone wall": "wall", "clouds": "sky"}
_OTHER_WALLS = dict.fromkeys(("concrete wall", "panel wall", "tile wall", "wood wall"), "wall")
_FLOORS = dict.fromkeys(("tile floor", "wood floor", "marble floor", "stone floor"), "floor")
_SPELLED_OTHERWISE = {
    **{"airplane": "aeroplane", "motorcycle": "motorbike", "couch": "sofa", "tv": "tv monitor"},
}
_CONTEXT = {
    **_SPELLED_OTHERWISE,
    **_MADE_OF,
    **_OTHER_WALLS,
    **_FLOORS,
    **{"dirt": "ground", "gravel": "ground", "sand": "ground", "mud": "ground"},
    **{"sea": "water", "river": "water", "water drops": "water"},
    **{"dining table": "table", "desk": "table", "stop sign": "sign", "laptop": "computer"},
    **{"backpack": "bag", "handbag": "bag", "house": "building", "skyscraper": "building"},
    **{"blanket": "bedclothes", "pillow": "bedclothes", "clothes": "cloth", "towel": "cloth"},
    **{"cupboard": "cabinet", "shelf": "shelves", "pavement": "sidewalk", "railroad": "track"},
    **{"hill": "mountain", "stone": "rock", "ceiling tile": "ceiling"},
}
_CITYSCAPES = {
    **_MADE_OF,
    **_OTHER_WALLS,
    **{"grass": "terrain", "dirt": "terrain", "sand": "terrain", "mud": "terrain"},
    **{"tree": "vegetation", "bush": "vegetation", "plant": "vegetation"},
    **{"house": "building", "skyscraper": "building", "pavement": "sidewalk"},
    "stop sign": "traffic sign",
}
_ADE20K = {
    **_MADE_OF,
    **_OTHER_WALLS,
    **_FLOORS,
    **{"dirt": "earth", "mud": "earth", "pavement": "sidewalk", "window": "windowpane"},
    **{"dining table": "table", "handbag": "bag", "motorcycle": "minibike", "couch": "sofa"},
    **{"tv": "television receiver", "cow": "animal", "horse": "animal", "sheep": "animal"},
    **{"sports ball": "ball", "potted plant": "plant", "cupboard": "cabinet"},
    **{"window blind": "blind", "clothes": "apparel", "stone": "rock", "ceiling tile": "ceiling"},
}
_CAMVID = {
    **_MADE_OF,
    **{"brick wall": "building", "stone wall": "building", "house": "building"},
    **{"stop sign": "sign", "bicycle": "bicyclist", "skyscraper": "building"},
}
OTHER_NAMES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "coco_stuff": {
        "voc20": _SPELLED_OTHERWISE,
        "voc21": _SPELLED_OTHERWISE,
        "context59": _CONTEXT,
        "context60": _CONTEXT,
        "cityscapes": _CITYSCAPES,
        "ade20k": _ADE20K,
        "camvid": _CAMVID,
    }
}
"""Class of a vocabulary -> its name in another one, where no word says that they are the same.

Only what is always so: COCO-Stuff's `fruit` may be no `food` to PASCAL Context's annotators.
"""


def same_class(words: Sequence[str], other: Vocabulary, own: str, /) -> int | None:
    """The index of a class in another vocabulary; None: it has no such class.

    Args:
        words: the name of the class, and further words for it.
        other: the other vocabulary.
        own: the name of the vocabulary that the class is of.
    """
    named = OTHER_NAMES.get(own, {}).get(other.name, {}).get(words[0])
    index = {
        compared(word): k for k, c in enumerate(other.classes) for word in (c.name, *c.synonyms)
    }
    found = (index.get(compared(word)) for word in ([named] if named else words))
    return next((k for k in found if k is not None), None)


def translation(own: Vocabulary, other: Vocabulary) -> npt.NDArray[np.uint8]:
    """What the values of a label map in one vocabulary are in another one.

    Returns:
        [256] uint8, class index in `own` -> class index in `other`, 255 where it has no such class.
    """
    table = np.full(UNLABELLED + 1, UNLABELLED, np.uint8)
    if other.names == own.names:
        table[: len(own)] = np.arange(len(own))
        return table
    for index, entry in enumerate(own.classes):
        found = same_class((entry.name, *entry.synonyms), other, own.name)
        if found is not None:
            table[index] = found
    return table
