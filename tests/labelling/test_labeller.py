from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import fmbseg
from fmbseg.cli import _main
from fmbseg.config import Config, MasksSection
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary import Vocabulary, VocabularyClass
from fmbseg.errors import ConfigError
from fmbseg.scenes.classes import CLASS_INDEX
from fmbseg.scenes.render import render_scene
from tests.workspace import MakeConfig, draw_picture

CLASSES = ["dog", "grass", "sky"]


def test_one_picture_in_everything_out(make_config: MakeConfig) -> None:
    labeller = fmbseg.Labeller(CLASSES, make_config())
    picture = draw_picture(0, (96, 64))
    found = labeller.label(picture)
    detected = len(found.detections.classes)
    assert detected and labeller.names == tuple(CLASSES)
    assert found.points.shape == (detected, 5, 2)
    assert found.queried.shape == (detected, 64, 96)
    assert len(found.query_iou) == len(found.query_similarity) == detected
    assert len(found.automatic.masks) == len(found.classes) == len(found.similarity)
    assert found.label.shape == (64, 96)
    assert set(np.unique(found.label).tolist()) <= {0, 1, 2, UNLABELLED}
    again = labeller.label(np.asarray(picture))
    assert (again.label == found.label).all()


def test_stage_1_looks_for_kinds_as_for_synonyms() -> None:
    def labels(**words: tuple[str, ...]) -> npt.NDArray[np.integer]:
        classes = (VocabularyClass("quark", **words), *map(VocabularyClass, CLASSES[1:]))
        config = Config(masks=MasksSection(points_per_side=4))
        return fmbseg.Labeller(Vocabulary("some", classes), config).label(scene.image).label

    scene = render_scene(1, size=(128, 128), objects=[("dog", 0)], scale=(0.8, 0.8))
    dog = scene.label == CLASS_INDEX["dog"]
    found = labels(kinds=("dog",))
    assert (found == labels(synonyms=("dog",))).all()
    assert (found == 0)[dog].mean() > 0.7 and (labels() == 0)[dog].mean() < 0.1


def test_of_words_that_are_one_to_clip_the_first_is_labelled_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = render_scene(2, size=(128, 128), objects=[("airplane", 0)], scale=(0.8, 0.8))
    airplane = scene.label == CLASS_INDEX["airplane"]
    for names in (["grass", "airplane", "aeroplane"], ["grass", "aeroplane", "airplane"]):
        caplog.clear()
        found = fmbseg.Labeller(names).label(scene.image).label
        assert (found == 1)[airplane].mean() > 0.7 and not (found == 2).any()
        (said,) = caplog.messages
        assert f"labelled as the class that stands first: {names[2]} as {names[1]} " in said
    caplog.clear()
    assert fmbseg.Labeller(["airplane", "grass"]) and not caplog.messages


def test_a_preset_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'huge'"):
        fmbseg.Labeller(CLASSES, preset_name="huge")


def run(*words: object) -> int:
    """The command line; its exit code."""
    return _main([str(word) for word in words])


def test_the_command_needs_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    draw_picture(0, (64, 48)).save("photos/a.jpg")
    (tmp_path / "photos" / "b.jpg").write_text("no picture")
    call = ("label", "photos", "--classes", "dog, grass, sky", "--out", "out")
    assert run(*call, "--set", "run.threads=1") == 0
    said = capsys.readouterr()
    assert "1 pictures labelled (1 now), 1 skipped" in said.out
    assert "b.jpg is broken" in said.out
    assert "label: 1/1" in said.err
    assert (tmp_path / "out" / "labels" / "a.png").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]
    assert run("export", "voc", "out", "--out", "voc") == 0
    assert (tmp_path / "voc" / "SegmentationClass" / "a.png").is_file()
    capsys.readouterr()
    for wrong, says in (
        ((*call, "--strict"), "1 not read: "),
        ((*call[:-2], "--vocabulary", "voc21", "--out", "o"), "give either --classes"),
        ((*call, "--preset", "huge"), "unknown preset"),
        (("label", "no", "--classes", "dog", "--out", "o"), "no is no folder"),
        (("label", "photos", "--classes", "dog, dog", "--out", "o"), "dog"),
    ):
        assert run(*wrong) == 2
        error = capsys.readouterr().err.splitlines()
        assert says in error[-1], error
