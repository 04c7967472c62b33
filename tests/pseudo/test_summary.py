"""What `fmbseg run label` says at its end, and what it warns of."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from fmbseg.data.vocabulary import Vocabulary, VocabularyClass, vocabulary_from_names
from fmbseg.pseudo.labels import load_label
from fmbseg.pseudo.summary import AREAS, AREAS_SCHEMA, LabelSummary, area_rows, read_summary
from fmbseg.pseudo.tables import write_table
from fmbseg.store.paths import Paths
from tests.workspace import MakeConfig, opened, run

WORDS = vocabulary_from_names(["road", "car", "tree", "dog"])


def summary(folder: Path, *labels: list[int]) -> LabelSummary:
    rows = [
        row for i, label in enumerate(labels) for row in area_rows(str(i), WORDS, np.array([label]))
    ]
    write_table(folder / AREAS, rows, AREAS_SCHEMA)
    return read_summary(folder, WORDS)


def test_pictures_and_classes_without_a_label_are_counted(tmp_path: Path) -> None:
    found = summary(tmp_path, [0, 0, 2, 255], [255] * 4)
    assert found.lines(WORDS) == [
        "custom: 2 pictures, 1 without a label; 62.5 % of the pixels unlabelled",
        "most pixels: road 25.0 %, tree 12.5 %",
        "2 of 4 classes have no label: car, dog",
    ]
    assert found.doubt(WORDS) is None


def test_labels_that_a_head_learns_little_from_are_doubted(tmp_path: Path) -> None:
    road = summary(tmp_path, [0] * 19 + [1], [255] * 40)
    assert str(road.doubt(WORDS)).startswith("'road' covers 95 % of what is labelled")
    background = Vocabulary("own", (VocabularyClass("none"), VocabularyClass("car")), background=0)
    assert road.doubt(background) is None
    assert str(summary(tmp_path, [255, 255]).doubt(WORDS)).startswith("nothing was labelled")


def test_the_stage_sums_up_its_own_label_maps(
    tmp_path: Path, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config, paths = make_config(), Paths(tmp_path)
    for stage in ("detect", "query", "masks", "label"):
        run(stage, config, paths)
    labels = [load_label(path) for path in sorted((paths.label / "labels").iterdir())]
    unlabelled = sum(int((label == 255).sum()) for label in labels)
    share = 100 * unlabelled / sum(label.size for label in labels)
    with caplog.at_level(logging.WARNING):
        first, *_ = opened("label", config, paths).summary()
    empty = sum(bool((label == 255).all()) for label in labels)
    expected = (
        f"coco_stuff: {len(labels)} pictures, {empty} without a label; {share:.1f} % of the pixels"
    )
    assert first == f"{expected} unlabelled"
    # The pictures of these tests are no scenes, and the models are the tiny ones.
    assert "the tiny models know drawings of emoji glyphs only" in caplog.text
