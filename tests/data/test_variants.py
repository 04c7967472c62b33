"""Lists of other words for a benchmark's classes, and class lists as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmbseg.cli import _main
from fmbseg.data.vocabulary import (
    load_vocabulary,
    reworded,
    variant_names,
    vocabulary_from_text,
    vocabulary_yaml,
)
from fmbseg.errors import VocabularyError
from tests.data.test_vocabulary import SIZES


@pytest.mark.parametrize("separator", [", ", "; ", ";"])
def test_text_lists_with_each_separator(separator: str, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text(f"sky{separator}wall\nperson{separator}people\n\nwood \n")
    vocabulary = vocabulary_from_text(file, separator=separator, background="sky")
    assert vocabulary.names == ("sky", "person", "wood")
    assert vocabulary.queries == (["wall", "person", "people", "wood"], [0, 1, 1, 2])


def test_the_wrong_separator_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("road\nperson, people\n")
    with pytest.raises(VocabularyError, match=r"line 2 holds ','"):
        vocabulary_from_text(file, separator="; ")
    with pytest.raises(VocabularyError, match=r"line 2 holds ','"):
        load_vocabulary(file)


def test_published_lists_are_variants_of_every_benchmark() -> None:
    benchmarks = sorted(set(SIZES) - {"camvid"})
    expected = [f"{peer}/{name}" for peer in ("sclip", "proxyclip") for name in benchmarks]
    assert list(variant_names()) == expected
    for name in variant_names():
        variant, base = load_vocabulary(name), load_vocabulary(name.split("/")[1])
        assert variant.name == name and variant.names == base.names
        assert variant.background == base.background and variant.templates == "imagenet80"
        assert variant.digest != base.digest


def asked(name: str, of: str) -> list[str]:
    words, owners = load_vocabulary(name).queries
    index = load_vocabulary(name).names.index(of)
    return [word for word, owner in zip(words, owners, strict=True) if owner == index]


def test_a_benchmarks_classes_in_other_words(tmp_path: Path) -> None:
    own = load_vocabulary("voc21")
    assert reworded(own, None) is own
    assert reworded(own, "sclip") == reworded(own, "sclip/voc21") == load_vocabulary("sclip/voc21")
    file = tmp_path / "mine.yaml"
    file.write_text("of: voc21\nask: {boat: [yacht]}\n")
    mine = reworded(own, str(file))
    assert "yacht" in mine.queries[0] and "ship" not in mine.queries[0]
    assert mine.names == own.names


@pytest.mark.parametrize(
    ("benchmark", "wanted", "message"),
    [
        ("voc21", "voc20", "class 0 is 'aeroplane' instead of 'background'"),
        ("voc20", "sclip/voc21", "class 0 is 'background' instead of 'aeroplane'"),
        ("voc20", "short.txt", "19 classes instead of 20"),
        ("voc20", "swapped.txt", "class 18 is 'tv monitor' instead of 'train'"),
        ("camvid", "sclip", "no vocabulary 'sclip/camvid'"),
        ("voc20", "none.yaml", "none.yaml does not exist: give the file of your class names"),
        ("voc20", "clases.txt", "clases.txt does not exist"),
        ("voc20", "none", "no vocabulary 'none': give a YAML file or one of ade20k"),
    ],
)
def test_words_of_other_classes_are_refused(
    benchmark: str, wanted: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label map's values are class indices: in another order every score would be wrong."""
    names = list(load_vocabulary("voc20").names)
    (tmp_path / "short.txt").write_text("\n".join(names[:-1]))
    (tmp_path / "swapped.txt").write_text("\n".join([*names[:18], names[19], names[18]]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VocabularyError, match=message) as caught:
        reworded(load_vocabulary(benchmark), wanted)
    assert "\n" not in str(caught.value)


def test_variants_ask_with_the_words_of_their_authors() -> None:
    assert asked("sclip/voc21", "boat") == ["ship"]
    assert asked("sclip/voc20", "dining table") == ["table"]
    assert asked("sclip/voc20", "tv monitor")[0] == "television monitor"
    assert len(asked("sclip/voc20", "person")) == 7
    assert asked("sclip/coco_object", "person")[-1] == "body"
    assert asked("sclip/context60", "background") == ["background"]
    assert asked("sclip/context60", "wood") == ["wood "]  # the blank is in the published file
    assert asked("sclip/cityscapes", "traffic light") == ["trafficlight"]
    assert asked("proxyclip/voc21", "person") == ["person"]
    assert asked("proxyclip/voc21", "tv monitor") == ["tvmonitor"]
    assert len(asked("sclip/voc21", "background")) == 26
    assert len(asked("proxyclip/voc21", "background")) == 26
    assert len(asked("proxyclip/coco_object", "background")) == 17
    # COCO's bed stands for itself and for the background there, as published.
    assert "bed" in asked("sclip/coco_object", "background")
    assert asked("sclip/coco_object", "bed") == ["bed"]
    assert asked("sclip/coco_stuff", "brick wall") == ["wall-brick"]


@pytest.mark.parametrize("separator", [", ", "; ", ";"])
def test_a_benchmarks_list_in_text_form(
    separator: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words, owners = load_vocabulary("sclip/coco_object").queries
    rows: list[list[str]] = [[] for _ in range(81)]
    for word, owner in zip(words, owners, strict=True):
        rows[owner].append(word)
    file = tmp_path / "cls_coco_object.txt"
    file.write_text("\n".join(separator.join(row) for row in rows))
    imported = vocabulary_from_text(file, separator=separator, of="coco_object")
    assert imported.queries == (words, owners)
    assert imported.background == 0
    assert "'bed' stands in two classes" in caplog.text
    own = tmp_path / "own.yaml"
    own.write_text(vocabulary_yaml(imported))
    again = load_vocabulary(own)
    assert again.digest == imported.digest and again.queries == imported.queries


def test_doubtful_lists_are_warned_of_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "list.txt"
    file.write_text("dog, puppy,hound\nwood \n")
    assert vocabulary_from_text(file, separator=", ").queries[0] == [
        "dog",
        "puppy",
        "hound",
        "wood",
    ]
    assert "line 1: ',' without its blank" in caplog.text
    assert "line 2: stray blanks removed from 'wood '" in caplog.text
    with pytest.raises(VocabularyError, match="has 2 lines, but voc20 has 20 classes"):
        vocabulary_from_text(file, separator=", ", of="voc20")
    file.write_text("\n".join(["a, "] + [f"b{k}" for k in range(19)]))
    with pytest.raises(VocabularyError, match="empty word"):
        vocabulary_from_text(file, separator=", ", of="voc20")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("of: voc22", "no vocabulary 'voc22' to be `of`"),
        ("of: voc21\nclasses: [dog]", "unknown key 'classes' of a variant"),
        ("of: voc21\nask: {unicorn: [horse]}", "'unicorn' must be a class of voc21"),
        ("of: voc21\nask: {boat: ship}", "'boat' must be a class of voc21, with a list"),
        ("of: voc21\nask: [ship]", "`ask` holds class names"),
        ("of: voc21\ntemplates: [single]", "templates names a set"),
    ],
)
def test_bad_variants_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(VocabularyError, match=message):
        load_vocabulary(file)


def test_import_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "list.txt", tmp_path / "words.yaml"
    file.write_text("sky; wall\nperson; people\n")
    command = ["data", "vocabulary", str(file), "--out", str(out), "--separator"]
    assert _main([*command, "; ", "--background", "sky"]) == 0
    assert load_vocabulary(out).queries == (["wall", "person", "people"], [0, 1, 1])
    assert _main([*command, ", "]) == 2
    assert "line 1 holds ';'" in capsys.readouterr().err
