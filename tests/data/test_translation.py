"""Truth of one data set in the words of another."""

from __future__ import annotations

import numpy as np
import pytest

from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names, vocabulary_names
from fmbseg.data.vocabulary.classes import compared
from fmbseg.data.vocabulary.translation import translation


def test_kinds_are_what_other_vocabularies_call_it() -> None:
    """Each shipped kind is a class of COCO-Stuff: what is no word of anybody is of no use."""
    known = {compared(word) for c in load_vocabulary("coco_stuff").classes for word in c.known_as}
    for name in vocabulary_names():
        for entry in load_vocabulary(name).classes:
            assert {compared(word) for word in entry.kinds} <= known, (name, entry.name)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("context59", {"brick wall": "wall", "tv": "tv monitor", "cat": "cat", "fruit": None}),
        ("cityscapes", {"grass": "terrain", "person": "person", "sea": None}),
        ("ade20k", {"dirt": "earth", "sea": "sea", "horse": "animal", "giraffe": None}),
        ("voc21", {"couch": "sofa", "dining table": "dining table", "road": "background"}),
        ("coco_object", {"dog": "dog", "sky": "background"}),
    ],
)
def test_a_class_is_said_in_other_words(name: str, called: dict[str, str | None]) -> None:
    own, other = load_vocabulary("coco_stuff"), load_vocabulary(name)
    table = translation(own, other)
    assert table.shape == (256,) and table.dtype == np.uint8
    for word, expected in called.items():
        value = table[own.names.index(word)]
        assert (None if value == 255 else other.names[value]) == expected, word
    assert (table[len(own) :] == 255).all()


def test_the_same_classes_stay_and_a_users_words_are_found_by_their_synonyms() -> None:
    own = load_vocabulary("voc20")
    assert translation(own, own)[: len(own)].tolist() == list(range(len(own)))
    pets = vocabulary_from_names(["Bird", "cow", "unicorn"], "pets")
    table = translation(own, pets)
    assert (table != 255).sum() == 2
    assert table[own.names.index("bird")] == 0 and table[own.names.index("cow")] == 1
    with_words = translation(own, vocabulary_from_names(["ship"], "sea"))
    assert with_words[own.names.index("boat")] == 0
