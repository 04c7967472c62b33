"""Names examined and suggested, by the shipped tiny CLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmbseg import cli
from fmbseg.commands.words import NAMES, SHEET
from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names
from fmbseg.models.clip import ClipModel, load_clip
from fmbseg.models.text import SAME_TO_CLIP
from fmbseg.scenes.files import write_scenes
from fmbseg.wording import collisions
from fmbseg.wording.collisions import explained, nearest_pairs
from fmbseg.wording.suggestions import distinct_words


@pytest.fixture(scope="module")
def tiny_clip() -> ClipModel:
    """With the weights of the package."""
    return load_clip("tiny-clip")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn pictures and their truth."""
    root = tmp_path_factory.mktemp("scenes") / "VOC2012"
    write_scenes("voc2012", root, train=6, val=1)
    return root / "JPEGImages"


def test_the_nearest_pairs_are_those_of_all(
    tiny_clip: ClipModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = load_vocabulary("voc21")
    text = tiny_clip.text_embeddings(words)
    queries, owners = words.queries
    best: dict[tuple[int, int], float] = {}
    for i in range(len(queries)):
        for j in range(i + 1, len(queries)):
            pair, cosine = (owners[i], owners[j]), float(text.queries[i] @ text.queries[j])
            if owners[i] != owners[j]:
                best[pair] = max(best.get(pair, -1.0), cosine)
    expected = sorted(best.values(), reverse=True)[:20]
    for elements in (1 << 24, 3 * len(queries)):
        monkeypatch.setattr(collisions, "_AT_ONCE", elements)
        found = nearest_pairs(words, text, 20)
        assert [pair.cosine for pair in found] == pytest.approx(expected, abs=1e-6)
        assert len({pair.classes for pair in found}) == 20


def test_words_that_are_one_to_clip_are_named_with_a_way_out(tiny_clip: ClipModel) -> None:
    words = vocabulary_from_names(["aeroplane", "airplane", "dog", "ship|kayak", "boat"])
    pairs = nearest_pairs(words, tiny_clip.text_embeddings(words), 10)
    found = explained(pairs, words, tiny_clip, "single")
    assert {each.pair.classes for each in found} == {("aeroplane", "airplane"), ("ship", "boat")}
    for each in found:
        assert each.by_templates["single"] == pytest.approx(each.pair.cosine, abs=1e-6)
        assert all(each.by_templates[name] < SAME_TO_CLIP for name in each.separating)
    ways = {each.pair.classes: each.other_words for each in found}
    assert ways["aeroplane", "airplane"] == ()
    kayak = [(name, word) for name, word, _ in ways["ship", "boat"]]
    cosine = torch.nn.functional.cosine_similarity(
        *(tiny_clip.encode_text([f"a photo of a {each}."]) for each in ("kayak", "boat"))
    )
    assert (("ship", "kayak") in kayak) == (float(cosine) < SAME_TO_CLIP)


def test_check_tells_which_class_gets_the_word(capsys: pytest.CaptureFixture[str]) -> None:
    check = ["words", "check", "--classes", "couch, grass, sofa"]
    assert cli._main(check) == 0
    assert "stands first: sofa as couch" in capsys.readouterr().out
    assert cli._main([*check, "--set", "detection.same_words=null"]) == 0
    assert "stands first" not in capsys.readouterr().out


def test_check_tells_what_was_never_detected(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes, out = "dog, cat, road, zeppelin", str(tmp_path / "labels")
    assert cli._main(["label", str(scenes), "--classes", classes, "--out", out]) == 0
    capsys.readouterr()
    assert cli._main(["words", "check", "--classes", classes, "--labels", out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 classes, 4 words, to tiny-clip with single:"
    assert lines[1] == "no two classes are one to CLIP"
    assert "zeppelin" in lines[-1] and lines[-1].startswith("never detected (")
    assert cli._main(["words", "check", "--classes", "sea, sky", "--labels", out]) == 2
    assert "has detections of other classes" in capsys.readouterr().err
    assert cli._main(["words", "check", "--classes", "sea, sky", "--labels", str(tmp_path)]) == 2
    assert "detections.parquet does not exist" in capsys.readouterr().err


def test_names_are_suggested_with_examples(
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli._main(["words", "suggest", str(scenes), "--out", "new", "--count", "5"]) == 0
    names = (tmp_path / "new" / NAMES).read_text().splitlines()
    assert len(names) == 5 and load_vocabulary(tmp_path / "new" / NAMES).names == tuple(names)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    with Image.open(tmp_path / "new" / SHEET) as sheet:
        assert sheet.height > 5 * 300
        assert len(np.unique(np.asarray(sheet))) > 20
    (tmp_path / "new" / NAMES).write_text("mine\n")
    assert cli._main(["words", "suggest", str(scenes), "--out", "new"]) == 2
    assert (tmp_path / "new" / NAMES).read_text() == "mine\n"


def test_words_that_are_one_to_clip_are_suggested_once(tiny_clip: ClipModel) -> None:
    words, text = distinct_words(tiny_clip, "single")
    asked = {word for entry in words.classes for word in entry.words}
    assert {"dog", "terrain", "tv monitor", "person in shirt"} <= asked
    assert "background" not in asked and len(asked) > 250
    first = torch.stack([text.queries[text.query_class == k][0] for k in range(len(text))])
    cosines = first @ first.T
    cosines.fill_diagonal_(0)
    assert cosines.max() < SAME_TO_CLIP
