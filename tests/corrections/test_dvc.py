"""Corrections in DVC, for real, in a scratch project: followed, versioned, brought back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg.pipeline.dvc import FOLLOWED, corrections_yaml, follow_corrections
from tests.project import copy_project


def test_dvc_follows_the_projects_own_corrections_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not follow_corrections(Path("data/corrections"))  # no project
    assert (repository / FOLLOWED).read_text() == corrections_yaml(), "shipped without any"
    shutil.copy(repository / FOLLOWED, tmp_path)
    assert not follow_corrections(Path("elsewhere"))
    assert follow_corrections(tmp_path / "data" / "corrections")
    assert (tmp_path / FOLLOWED).read_text() == corrections_yaml("data/corrections")


@pytest.mark.slow
def test_dvc_makes_labels_anew_when_corrections_come_change_and_go(
    tmp_path: Path, repository: Path
) -> None:
    project = copy_project(repository, tmp_path / "fmbseg")
    project.set(r"vocabulary: \[coco_stuff.*?\]", "vocabulary: coco_stuff")
    assert "label" in project.repro("label")
    assert project.repro("label") == set()
    labels = project.root / "data" / "pseudo" / "label" / "labels"
    first = min(labels.iterdir())
    machine = first.read_bytes()

    def correct(value: int) -> None:
        edited = project.root / "edited"
        edited.mkdir(exist_ok=True)
        label = np.asarray(Image.open(first)).copy()
        label[:20] = value
        Image.fromarray(label).save(edited / first.name)
        said = project.run("fmbseg", "corrections", "import", "png", "edited", "--by", "Ada")
        assert "1 pictures taken over, 1 of them differ" in said
        assert "`dvc add data/corrections`" in said
        project.run("dvc", "add", "data/corrections")

    correct(3)
    status = project.run("git", "status", "--short", "data", FOLLOWED).split()
    assert {"data/", FOLLOWED} <= set(status)  # of data/ there is corrections.dvc alone
    assert project.repro("label") == {"label"}
    assert project.repro("label") == set()
    assert (np.asarray(Image.open(first))[:20] == 3).all()
    project.run("git", "add", "-A")
    tracked = set(project.run("git", "ls-files", "data").split())
    assert tracked == {"data/corrections.dvc"}
    project.commit("corrected")

    correct(5)
    assert project.repro("label") == {"label"}
    assert (np.asarray(Image.open(first))[:20] == 5).all()
    # Back to the commit before: its corrections, and its labels out of DVC's cache.
    project.run("git", "checkout", ".")
    shutil.rmtree(project.root / "data" / "corrections")
    done = project.try_run("dvc", "repro", "label")
    assert done.returncode != 0 and "data/corrections" in done.stdout + done.stderr
    project.run("dvc", "checkout", "data/corrections.dvc")
    project.repro("label")
    assert (np.asarray(Image.open(first))[:20] == 3).all()
    # And without any.
    (project.root / FOLLOWED).write_text(corrections_yaml())
    (project.root / "data" / "corrections.dvc").unlink()
    shutil.rmtree(project.root / "data" / "corrections")
    project.repro("label")
    assert first.read_bytes() == machine
