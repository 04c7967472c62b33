"""Classes merged, renamed and left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names
from fmbseg.data.vocabulary.grouping import Grouping, load_grouping
from fmbseg.errors import VocabularyError

NAMES = ("dog", "sky", "cat", "grass", "automobile")


def grouping(text: str, tmp_path: Path, names: tuple[str, ...] = NAMES) -> Grouping:
    file = tmp_path / "groups.yaml"
    file.write_text(text)
    return load_grouping(file, names)


def test_groups_stand_where_their_first_class_stood(tmp_path: Path) -> None:
    found = grouping("animal: [Cat, dog]\ncar: automobile\nunlabelled: [grass]\n", tmp_path)
    assert found.names == ("animal", "sky", "car")
    assert found.of == (0, 1, 0, None, 2)
    assert found.table(-1).tolist() == [0, 1, 0, -1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[dog]", "holds no groups"),
        ("animal: 3", "'animal' needs class names"),
        ("animal: []", "'animal' needs class names"),
        ("animal: [dog, wolf]", "'wolf' is none of the 5 classes"),
        ("animal: [dog]\npet: [dog]", "'dog' stands twice"),
        ("sky: [dog]", "'sky' has the name of a class that it does not hold"),
    ],
)
def test_odd_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=message) as caught:
        grouping(text, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_is_asked_with_all_words_of_a_group(tmp_path: Path) -> None:
    words = vocabulary_from_names(["dog|puppy", "sky", "cat", "grass", "automobile", "-wolf"])
    found = grouping(
        "animal: [dog, cat]\nrest: [background, grass]\n", tmp_path, words.names
    ).merged(words)
    assert found.names == ("animal", "sky", "rest", "automobile") and found.background == 2
    assert found.queries == (
        ["dog", "puppy", "cat", "sky", "grass", "wolf", "automobile"],
        [0, 0, 0, 1, 2, 2, 3],
    )
    out = grouping("unlabelled: [sky]", tmp_path, words.names).merged(words)
    assert out.names[out.background or 0] == "background"
    assert "sky" in out.classes[out.background or 0].words
    plain = vocabulary_from_names(["dog", "sky"])
    with pytest.raises(VocabularyError, match="'sky' is left out, and there is no background"):
        grouping("unlabelled: [sky]", tmp_path, plain.names).merged(plain)
    uneven = vocabulary_from_names(["dog>0.2", "cat"])
    with pytest.raises(VocabularyError, match="different thresholds"):
        grouping("animal: [dog, cat]", tmp_path, uneven.names).merged(uneven)


def test_folded_counts_are_those_of_grouped_label_maps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 5, 4000), rng.integers(0, 6, 4000)
    matrix = np.zeros((5, 6), dtype=np.int64)
    np.add.at(matrix, (truth, said), 1)
    found = grouping("animal: [dog, cat]\nunlabelled: [grass]", tmp_path)
    table = np.append(found.table(9), 9)
    expected = np.zeros((3, 4), dtype=np.int64)
    for true, predicted in zip(table[truth], table[said], strict=True):
        if true != 9:
            expected[true, min(predicted, 3)] += 1
    assert (found.folded(matrix) == expected).all()


def test_the_background_of_a_benchmark_stays_one(tmp_path: Path) -> None:
    words = load_vocabulary("voc21")
    found = grouping("animal: [dog, cat, cow]", tmp_path, words.names)
    merged = found.merged(words)
    assert merged.background == found.group(words.background) == 0
    assert merged.classes[0] == words.classes[0] and len(merged) == 19
