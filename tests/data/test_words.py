"""How classes are written in a line, and what the rest is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fmbseg.data.vocabulary import (
    Vocabulary,
    load_vocabulary,
    vocabulary_from_names,
    vocabulary_yaml,
    with_rest,
)
from fmbseg.data.vocabulary.rest import contrasts
from fmbseg.errors import VocabularyError


def test_a_class_has_synonyms_and_a_threshold() -> None:
    words = vocabulary_from_names(["dog|puppy | hound>0.24", " grass ", "sky>-.1"])
    assert words.names == ("dog", "grass", "sky")
    assert words.queries == (["dog", "puppy", "hound", "grass", "sky"], [0, 0, 0, 1, 2])
    assert words.thresholds == (0.24, -1.0, -0.1)
    assert words.background is None
    assert vocabulary_from_names(["dog", "grass"]).thresholds is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dog|", "cat"], "empty word"),
        (["dog>much", "cat"], "'dog>much': write a least cosine behind >"),
        (["dog>2", "cat"], "2 of 'dog' is no cosine"),
        (["dog>nan", "cat"], "is no cosine"),
        (["dog|puppy", "puppy"], "'puppy' stands twice"),
        (["dog", "cat", "-Dog"], "'Dog' stands twice"),
        (["-wolf"], "no class"),
    ],
)
def test_odd_lines_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(VocabularyError, match=message) as caught:
        vocabulary_from_names(names)
    assert "\n" not in str(caught.value)


def test_lines_of_a_file_are_written_as_on_the_command_line(tmp_path: Path) -> None:
    lines = ["dog|puppy>0.2", "grass", "-wolf|fox"]
    (tmp_path / "custom.txt").write_text("\n".join(lines))
    assert load_vocabulary(tmp_path / "custom.txt") == vocabulary_from_names(lines)


def test_negatives_are_words_of_a_rest_that_comes_last() -> None:
    words = vocabulary_from_names(["dog", "-wolf|fox", "grass"])
    assert words.names == ("dog", "grass", "background") and words.background == 2
    assert words.queries == (["dog", "grass", "wolf", "fox"], [0, 1, 2, 2])


def test_one_class_alone_is_set_against_what_else_there_is() -> None:
    words = vocabulary_from_names(["dog", "-wolf"])
    assert words.names == ("dog", "background") and words.background == 1
    asked, owners = words.queries
    assert (asked[0], asked[1]) == ("dog", "wolf") and owners.count(0) == 1
    assert {"cat", "grass", "person"} <= set(asked) and asked.count("dog") == 1
    assert "hot dog" not in asked
    assert vocabulary_from_names(["dog", "cat"]).background is None


def test_a_rest_that_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    words = vocabulary_from_names(["dog", "cat"], rest="other things")
    assert words.names == ("dog", "cat", "other things") and words.background == 2
    assert "grass" in words.queries[0] and "other things" not in words.queries[0]
    there = vocabulary_from_names(["background", "dog", "cat"], rest="background")
    assert there.names == ("background", "dog", "cat") and there.background == 0
    assert there.queries[0].count("background") == 0
    assert caplog.text == ""
    voc = load_vocabulary("voc21")
    assert with_rest(voc) is voc and with_rest(voc, "background") is voc
    with pytest.raises(VocabularyError, match="has the background 'background'"):
        with_rest(voc, "rest")
    with pytest.raises(VocabularyError, match="name a class besides the rest"):
        vocabulary_from_names(["background"], rest="background")


@pytest.mark.parametrize(
    ("word", "gone", "kept"),
    [
        ("dogs", {"dog"}, {"cat"}),
        ("dog", {"dog", "hot dog"}, {"cat"}),
        ("sofa", {"couch"}, {"chair"}),
        ("pedestrian", {"person"}, {"dog"}),
        ("brick wall", {"brick wall"}, {"tile wall", "bird"}),
        ("aeroplane", {"airplane"}, {"train"}),
        ("sign", {"stop sign"}, {"traffic light"}),
        ("unicorn", set(), {"horse"}),
    ],
)
def test_what_means_the_same_is_no_contrast(word: str, gone: set[str], kept: set[str]) -> None:
    found = set(contrasts([word]))
    assert not gone & found and kept <= found


def test_all_that_changes_a_result_is_in_the_digest_and_survives_a_file(tmp_path: Path) -> None:
    variants = [
        ["dog", "cat"],
        ["dog|puppy", "cat"],
        ["dog>0.2", "cat"],
        ["dog>0.3", "cat"],
        ["dog", "cat", "-wolf"],
        ["dog"],
    ]
    made = [vocabulary_from_names(names) for names in variants]
    made.append(vocabulary_from_names(["dog", "cat"], rest="background"))
    assert len({words.digest for words in made}) == len(made)
    for words in made:
        (tmp_path / "custom.yaml").write_text(vocabulary_yaml(words))
        assert load_vocabulary(tmp_path / "custom.yaml") == words
        assert Vocabulary.from_record(words.record()) == words


def test_digests_of_lists_without_thresholds_and_kinds_are_those_of_earlier_versions() -> None:
    """Checkpoints and results carry them."""
    found = load_vocabulary("voc21")
    plain = replace(found, classes=tuple(replace(each, kinds=()) for each in found.classes))
    assert plain.digest.startswith("cd0bb4bce0644e236a8e") and plain.digest != found.digest


def test_training_and_scores_take_255_classes() -> None:
    names = [f"thing {number}" for number in range(256)]
    words = vocabulary_from_names(names)
    assert words.unlabelled == 65535 and vocabulary_from_names(names[:255]).unlabelled == 255
    with pytest.raises(VocabularyError, match="256 classes: training and scoring take at most 255"):
        words.require_small()
