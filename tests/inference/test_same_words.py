"""Classes whose words CLIP takes for an earlier class's are not answered by a head."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from fmbseg import load_segmenter
from fmbseg.align.record import ELSEWHERE, GROUND_TRUTH, STAGE_1, Supervision
from fmbseg.config import InferenceSection
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.deploy.words import words_file
from fmbseg.inference.segmenter import Segmenter
from tests.heads import write_head
from tests.workspace import draw_picture

PLAIN = InferenceSection(short_side=64)
RULE = PLAIN.model_copy(update={"same_words": 0.8})
CITYSCAPES = load_vocabulary("cityscapes")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on two vocabularies, it says."""
    folder = tmp_path_factory.mktemp("heads") / "head"
    write_head(folder, 3, "coco_stuff", "cityscapes", supervision=Supervision(STAGE_1))
    return folder


@pytest.fixture(scope="module")
def segmenter(head: Path) -> Segmenter:
    return load_segmenter(head, RULE)


def own_words(segmenter: Segmenter) -> set[int]:
    """Classes of Cityscapes with a word, kinds included, that no earlier class has: plain loops."""
    words = CITYSCAPES.widened
    text = segmenter._words.of(words)
    owners, cosines = text.query_class.tolist(), (text.queries @ text.queries.T).tolist()
    return {
        owner
        for row, owner in enumerate(owners)
        if not any(owners[j] < owner and cosines[row][j] >= 0.8 for j in range(len(owners)))
    }


def test_of_a_trained_vocabulary_some_classes_are_not_asked(
    head: Path, segmenter: Segmenter
) -> None:
    left = {*range(len(CITYSCAPES))} - own_words(segmenter)
    assert CITYSCAPES.names.index("rider") in left and len(left) < len(CITYSCAPES) / 2
    seen = set()
    for number in range(4):
        picture = draw_picture(number, (96, 64))
        scores = load_segmenter(head, PLAIN).predict(picture, vocabulary="cityscapes").scores
        seen |= {*scores.argmax(axis=0).flatten().tolist()}
        scores[sorted(left)] = -np.inf
        found = segmenter.predict(picture, vocabulary="cityscapes")
        np.testing.assert_array_equal(found.label_map, scores.argmax(axis=0))
        np.testing.assert_allclose(found.scores, scores, atol=1e-5)
        tiled = segmenter.predict_tiled(picture, 48, vocabulary="cityscapes")
        assert not left & {*tiled.label_map.flatten().tolist()}
    assert seen & left  # without the rule they are answered


def test_other_words_are_all_asked(head: Path, segmenter: Segmenter) -> None:
    picture = draw_picture(0, (96, 64))
    names = ["road", "path", "rider", "person"]
    found = segmenter.predict(picture, names)
    assert np.isfinite(found.scores).all()
    plain = load_segmenter(head, PLAIN).predict(picture, names)
    np.testing.assert_array_equal(found.label_map, plain.label_map)


@pytest.mark.parametrize(
    "labels", [None, Supervision(GROUND_TRUTH), Supervision(ELSEWHERE), Supervision(STAGE_1, 2, 9)]
)
def test_labels_of_other_origin_may_be_of_any_class(
    tmp_path: Path, labels: Supervision | None
) -> None:
    write_head(tmp_path, 3, "coco_stuff", "cityscapes", supervision=labels)
    text = load_segmenter(tmp_path, RULE).text(CITYSCAPES)
    assert text.worded.tolist() == [*range(len(CITYSCAPES))]


def test_a_file_of_words_keeps_a_row_for_each_class(segmenter: Segmenter) -> None:
    with np.load(io.BytesIO(words_file(segmenter, CITYSCAPES))) as file:
        first, rows = file["first"], file["embeddings"]
    own = own_words(segmenter)
    text = segmenter.text(CITYSCAPES)
    assert {*text.query_class.tolist()} == own
    ends = [*first[1:].tolist(), len(rows)]
    for index, (start, end) in enumerate(zip(first.tolist(), ends, strict=True)):
        expected = text.queries[text.query_class == index].numpy()
        if index not in own:
            expected = np.zeros((1, rows.shape[1]), np.float32)
        np.testing.assert_array_equal(rows[start:end], expected)
