from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmbseg.data.templates import TEMPLATES
from fmbseg.data.vocabulary import (
    Vocabulary,
    VocabularyClass,
    load_vocabulary,
    vocabulary_from_names,
    vocabulary_names,
    vocabulary_yaml,
)
from fmbseg.errors import VocabularyError

SIZES = {
    "ade20k": 150,
    "camvid": 11,
    "cityscapes": 19,
    "coco_object": 81,
    "coco_stuff": 171,
    "context59": 59,
    "context60": 60,
    "voc20": 20,
    "voc21": 21,
}
PUBLISHED = {
    "ade20k": "ADE20KDataset",
    "cityscapes": "CityscapesDataset",
    "coco_stuff": "COCOStuffDataset",
    "context59": "PascalContextDataset59",
    "context60": "PascalContextDataset",
    "voc21": "PascalVOCDataset",
}


def letters(name: str) -> str:
    """What is left of a name once only its way of writing is taken off."""
    name = re.sub(r"-(other|stuff)$", "", name.strip().lower())
    return "".join(sorted(re.sub(r"[^a-z]", "", name.replace("conveyer", "conveyor"))))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_benchmarks_are_there() -> None:
    assert {name: len(load_vocabulary(name)) for name in vocabulary_names()} == SIZES


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_names_are_the_published_ones_in_their_order(name: str, samples: Path) -> None:
    published = read_json(samples / "class_lists.json")[PUBLISHED[name]]["classes"]
    names = load_vocabulary(name).names
    assert [letters(own) for own in names] == [letters(other) for other in published]


def test_lists_that_follow_from_others(samples: Path) -> None:
    lists = read_json(samples / "class_lists.json")
    coco_object = load_vocabulary("coco_object")
    assert coco_object.names == ("background", *lists["COCOObject80"]["classes"])
    assert load_vocabulary("coco_stuff").names[:80] == coco_object.names[1:]
    assert load_vocabulary("voc20").names == load_vocabulary("voc21").names[1:]
    assert load_vocabulary("context59").names == load_vocabulary("context60").names[1:]
    camvid = read_json(samples / "camvid" / "classes.json")
    names = [name.lower().replace("signsymbol", "sign") for name in camvid]
    assert list(load_vocabulary("camvid").names) == names


def test_order_is_that_of_the_published_text_embeddings(realdata: Path) -> None:
    folder = realdata / "clip_text_embeddings"
    order = read_json(folder / "class_order.json")
    for name, key, file in [
        ("voc20", "VOC12_classes", "voc12_single.npy"),
        ("coco_stuff", "COCO_classes", "coco_single.npy"),
    ]:
        names = load_vocabulary(name).names
        assert [letters(own) for own in names] == [letters(other) for other in order[key]]
        assert np.load(folder / file).shape[0] == len(names)


def test_real_embeddings_agree_on_what_a_name_means(realdata: Path) -> None:
    # OpenAI's CLIP finds each VOC class most similar to the COCO-Stuff class of the same meaning:
    # row by row, both orders are right.
    folder = realdata / "clip_text_embeddings"
    voc = np.load(folder / "voc12_single.npy").astype(np.float32)
    coco = np.load(folder / "coco_single.npy").astype(np.float32)
    other = {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch"}
    other["tv monitor"] = "tv"
    names, stuff = load_vocabulary("voc20").names, load_vocabulary("coco_stuff").names
    nearest = [stuff[index] for index in (voc @ coco.T).argmax(axis=1)]
    assert nearest == [other.get(name, name) for name in names]


def test_names_are_readable() -> None:
    for name in vocabulary_names():
        vocabulary = load_vocabulary(name)
        for word in [*vocabulary.names, *vocabulary.queries[0]]:
            assert re.fullmatch(r"[a-z]+( [a-z]+)*", word), (name, word)
    stuff = load_vocabulary("coco_stuff").names
    assert {"playing field", "brick wall", "sky", "water drops", "window blind"} <= set(stuff)
    assert load_vocabulary("ade20k").names[7] == "bed"  # "bed " in the published list


def test_background_is_asked_by_what_it_is_made_of() -> None:
    voc = load_vocabulary("voc21")
    words, owners = voc.queries
    assert voc.background == 0
    assert "background" not in words
    background = [word for word, owner in zip(words, owners, strict=True) if owner == 0]
    assert {"sky", "wall", "grass"} <= set(background)
    assert load_vocabulary("context60").queries[0][0] == "background"
    assert load_vocabulary("voc20").background is None
    # "bed" is an object class of COCO and must not stand for its background too.
    objects = load_vocabulary("coco_object")
    words, owners = objects.queries
    assert [owners[i] for i, word in enumerate(words) if word == "bed"] == [
        objects.names.index("bed")
    ]


def test_queries_hold_names_and_synonyms_with_their_class() -> None:
    vocabulary = Vocabulary(
        "pets", (VocabularyClass("dog"), VocabularyClass("cat", ("kitten", "tabby")))
    )
    assert vocabulary.queries == (["dog", "cat", "kitten", "tabby"], [0, 1, 1, 1])


def test_digest_is_of_the_content() -> None:
    one = vocabulary_from_names(["dog", "cat"])
    assert one.digest == vocabulary_from_names([" dog ", "cat"], name="other").digest
    assert one.digest != vocabulary_from_names(["cat", "dog"]).digest
    assert one.digest != Vocabulary("custom", one.classes, background=0).digest


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class"),
        (["dog", " "], "empty name"),
        (["dog", "cat", " Dog"], "'Dog' stands twice"),
        (["hot dog", "hot  dog"], "stands twice"),
        ([f"class {index}" for index in range(65536)], "at most 65535"),
    ],
)
def test_bad_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(VocabularyError, match=message) as caught:
        vocabulary_from_names(names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["dog; cat", "dog, cat"])
def test_two_names_in_one_are_refused(word: str) -> None:
    with pytest.raises(VocabularyError, match="part class names with commas alone"):
        vocabulary_from_names(["sky", word])


def test_a_background_that_is_only_a_word_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vocabulary_from_names(["dog", "cat"])
    (tmp_path / "none.txt").write_text("dog\ncat\n")
    load_vocabulary(tmp_path / "none.txt")
    load_vocabulary("voc21")  # has it as a rule
    assert caplog.text == ""
    vocabulary_from_names(["Background", "dog"])
    (tmp_path / "own.txt").write_text("background\ndog\n")
    load_vocabulary(tmp_path / "own.txt")
    first, second = (record.getMessage() for record in caplog.records)
    assert "asked for the word 'background' as for any other" in first
    assert second.startswith(str(tmp_path / "own.txt")) and "`background: background`" in second


def test_one_string_is_not_a_list() -> None:
    with pytest.raises(VocabularyError, match="give a list"):
        vocabulary_from_names("dog, cat")


def test_a_word_of_two_classes_is_refused() -> None:
    classes = (VocabularyClass("table"), VocabularyClass("desk", ("Table",)))
    with pytest.raises(VocabularyError, match="in class 'table' and in class 'desk'"):
        Vocabulary("furniture", classes)


def test_own_file(tmp_path: Path) -> None:
    file = tmp_path / "pets.yaml"
    file.write_text(
        "background: other\ntemplates: imagenet80\nclasses:\n"
        "  - dog\n  - {name: cat, synonyms: [kitten]}\n  - {name: other, synonyms: [wall]}\n"
    )
    vocabulary = load_vocabulary(file)
    assert vocabulary == load_vocabulary(str(file))
    assert vocabulary.name == "pets" and vocabulary.background == 2
    assert vocabulary.templates == "imagenet80"
    assert vocabulary.queries == (["dog", "cat", "kitten", "wall"], [0, 1, 1, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- dog", "not a vocabulary"),
        ("classes: dog", "not a vocabulary"),
        ("classes: [dog, no]", "quote odd names"),
        ("classes: [{name: dog, synonym: [puppy]}]", "is not understood"),
        ("classes: [{name: dog, synonyms: puppy}]", "is not understood"),
        ("classes: [dog]\ncolour: red", "unknown key 'colour'"),
        ("classes: [dog]\nbackground: sky", "'sky' is not among the classes"),
        ("classes: [dog]\ntemplates: all", "unknown templates 'all'"),
        ("classes: [dog]\ntemplates: [single]", "templates names a set, one of single"),
        ("classes: [dog", "not valid YAML"),
    ],
)
def test_bad_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(VocabularyError, match=message) as caught:
        load_vocabulary(file)
    assert "\n" not in str(caught.value)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(VocabularyError, match="voc20, voc21"):
        load_vocabulary("voc22")


def test_four_template_sets() -> None:
    assert [len(templates) for templates in TEMPLATES.values()] == [1, 7, 9, 80]
    for templates in TEMPLATES.values():
        assert len(set(templates)) == len(templates)
        assert all(template.count("{}") == 1 for template in templates)


def test_classes_that_share_no_word_with_other_vocabularies() -> None:
    own = Vocabulary(
        "own",
        (
            VocabularyClass("rest", ("wall", "Grass ")),
            VocabularyClass("sofa", ("couch",)),
            VocabularyClass("unicorn"),
            VocabularyClass("dog", ask=("puppy",)),
        ),
        background=0,
    )
    coco = Vocabulary("coco", tuple(map(VocabularyClass, ("couch", "dog", "rest"))))
    assert own.unknown_to([coco]) == ("rest", "unicorn", "dog")
    grass = Vocabulary("grass", (VocabularyClass("grass"), VocabularyClass("PUPPY")))
    assert own.unknown_to([coco, grass]) == ("unicorn",)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 10_000, "has 10000 characters: shorten it to 200"),
        ("e" + "\u0301" * 3000, "has 3001 characters"),
        ("dog\x1b[31m", "holds a control character"),
        ("caf\udce9", "holds a control character"),
    ],
)
def test_names_that_cannot_be_shown_are_refused(name: str, reason: str) -> None:
    for words in (("cat", name), (name,)):
        with pytest.raises(VocabularyError, match=reason) as caught:
            vocabulary_from_names(words)
        assert len(str(caught.value)) < 200 and str(caught.value).isprintable()
    with pytest.raises(VocabularyError, match=reason):
        Vocabulary("mine", (VocabularyClass("dog", ask=(name,)),))


def test_kinds_are_words_of_stage_1_alone() -> None:
    plain = Vocabulary("ground", (VocabularyClass("terrain"), VocabularyClass("road")))
    terrain = VocabularyClass("terrain", ("land",), kinds=("grass", "sand"))
    words = Vocabulary("ground", (terrain, VocabularyClass("road")))
    assert words.queries == (["terrain", "land", "road"], [0, 0, 1])
    assert words.widened.queries[0] == ["terrain", "land", "grass", "sand", "road"]
    assert words.widened.queries[1] == [0, 0, 0, 0, 1]
    assert len({plain.digest, words.digest, words.widened.digest}) == 3
    assert Vocabulary.from_record(json.loads(json.dumps(words.record()))) == words
    # A published list's words stay as they are.
    asked = Vocabulary("a", (VocabularyClass("pet", ask=("dog",), kinds=("cat",)),))
    assert asked.widened == asked and plain.widened == plain
    with pytest.raises(VocabularyError, match="'Road' stands twice"):
        Vocabulary("a", (VocabularyClass("road"), VocabularyClass("b", kinds=("Road",))))


def test_kinds_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nclasses: [{name: pet, kinds: [cat, dog]}, road]\n")
    found = load_vocabulary(path)
    assert found.classes[0].kinds == ("cat", "dog")
    path.write_text(vocabulary_yaml(found))
    assert load_vocabulary(path) == found
