"""Agreement of a head with itself: Cohen's kappa of its labels under flips and scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fmbseg.config import InferenceSection
from fmbseg.data.vocabulary import vocabulary_from_names
from fmbseg.inference.agreement import SCALES, agreement, kappa
from fmbseg.inference.segmenter import load_segmenter
from tests.heads import write_head

WORDS = vocabulary_from_names(["dog", "sky", "grass", "road"])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    write_head(folder, 0)
    return folder


def test_kappa_is_what_is_left_of_agreement_when_chance_is_taken_away() -> None:
    assert kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)  # Cohen 1960's own form
    assert kappa(np.diag([7, 3])) == 1
    assert kappa(np.array([[9, 0], [0, 0]])) == 0  # one class everywhere
    assert kappa(np.array([[25, 25], [25, 25]])) == 0


def test_it_is_that_of_the_labels_that_predict_gives(head: Path, picture: Image.Image) -> None:
    def labels(image: Image.Image, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        section = InferenceSection(short_side=side)
        return load_segmenter(head, section).predict(image, vocabulary=WORDS).label_map

    side = 64
    first = labels(picture, side)
    changed = [labels(ImageOps.mirror(picture), side)[:, ::-1]]
    changed += [labels(picture, round(scale * side)) for scale in SCALES]
    confusion = np.zeros((5, 5), dtype=np.int64)
    for second in changed:
        np.add.at(confusion, (first.ravel(), second.ravel()), 1)
    segmenter = load_segmenter(head)
    found = agreement(segmenter, [picture], WORDS)
    assert found == pytest.approx(kappa(confusion))
    assert 0 < found < 1
    assert segmenter.inference.short_side == side


def test_who_says_one_thing_everywhere_does_not_agree(head: Path, picture: Image.Image) -> None:
    assert agreement(load_segmenter(head), [picture], vocabulary_from_names(["dog"])) == 0
