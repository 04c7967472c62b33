"""A user's pictures as a versioned input: added, imported, pushed and pulled, through DVC."""

from __future__ import annotations

import json
import shlex
import shutil
from itertools import cycle
from pathlib import Path

import pytest

from fmbseg.scenes.files import write_scenes
from tests.project import Project, copy_project

pytestmark = pytest.mark.slow

CLASSES = {"car", "road", "tree", "dog", "person", "sky"}


def page_commands(repository: Path, heading: str) -> list[list[str]]:
    """The lines of the first shell block below a heading of docs/training.md."""
    text = (repository / "docs" / "training.md").read_text(encoding="utf-8")
    block = text.partition(f"\n{heading}\n")[2].partition("```sh\n")[2].partition("```")[0]
    return [shlex.split(line) for line in block.splitlines()]


def photo_folder(photos: list[Path], target: Path, count: int) -> Path:
    """Photos, some of them several times, with a class list, as a user would have them."""
    target.mkdir(parents=True)
    for index, path in zip(range(count), cycle(photos)):
        shutil.copyfile(path, target / f"{index:02d}_{path.name}")
    (target / "classes.txt").write_text("\n".join(sorted(CLASSES)))
    return target


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Project:
    made = copy_project(repository, tmp_path / "fmbseg")
    made.set("enabled: true", "enabled: false")
    made.commit("no tracking")
    return made


def test_imported_photos_are_versioned_pushed_and_pulled(
    project: Project, photos: list[Path], tmp_path: Path
) -> None:
    source = photo_folder(photos, tmp_path / "camera", 5)
    (project.root / "inputs").mkdir()
    project.run("dvc", "import-url", str(source), "inputs/photos")
    project.set("name: coco_stuff\n", "name: folder\n")
    project.set("root: data/scenes/coco_stuff164k\n", "root: inputs/photos\n")
    project.set("split: train2017", "split: all")
    project.set(r"vocabulary: \[.*\]", "vocabulary: null")
    assert project.repro("label") == {"detect", "query", "masks", "label"}
    labels = project.root / "data" / "pseudo" / "label" / "labels"
    made = {path.name: path.read_bytes() for path in labels.iterdir()}
    assert len(made) == 5

    project.run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "remote"))
    project.run("dvc", "push", "label", "inputs/photos.dvc")
    project.commit("five photos and their pseudo labels")

    # Another machine: neither the source of the photos nor any cache.
    source.rename(tmp_path / "gone")
    project.run("git", "clone", "-q", str(project.root), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    clone.run("dvc", "pull", "label", "inputs/photos.dvc")
    pulled = clone.root / "data" / "pseudo" / "label" / "labels"
    assert {path.name: path.read_bytes() for path in pulled.iterdir()} == made
    assert len(list((clone.root / "inputs" / "photos").glob("*.*g"))) == 5

    # New photos at the source are a new version, and DVC knows what depends on them.
    (tmp_path / "gone").rename(source)
    shutil.copyfile(photos[0], source / f"new_{photos[0].name}")
    project.run("dvc", "update", "inputs/photos.dvc")
    assert "detect" in project.run("dvc", "status")
    assert project.repro("detect") == {"detect"}
    # Back to the committed version: the photos and their labels come out of the cache.
    project.run("git", "checkout", "-q", "dvc.lock", "inputs/photos.dvc")
    project.run("dvc", "checkout", "inputs/photos.dvc", "label")
    assert {path.name: path.read_bytes() for path in labels.iterdir()} == made


def test_from_a_folder_of_photos_to_a_trained_segmenter(
    project: Project, repository: Path, tmp_path: Path
) -> None:
    """The page's commands, as they stand there, on pictures that the tiny models know."""
    write_scenes("voc2012", tmp_path / "scenes", train=0, val=20)
    drawn = sorted((tmp_path / "scenes" / "JPEGImages").iterdir())
    photo_folder(drawn, project.root / "inputs" / "photos", 20)
    doctor, train, predict, _ = page_commands(repository, "## Your own data set")
    shown = project.run(*doctor)
    assert "all: 20 images, 0 annotated (enough to train" in shown and "no file is broken" in shown
    project.run(*train)
    info = json.loads((project.root / "data" / "align" / "checkpoint.json").read_text())
    (words,) = info["vocabularies"]
    assert {entry["name"] for entry in words["classes"]} == CLASSES
    project.run(*predict)
    out = project.root / "out"
    assert len(list(out.glob("*.overlay.png"))) == len(list(out.glob("*.label.png"))) == 20
    found = json.loads(next(out.glob("*.json")).read_text())
    assert set(found["classes"]) == CLASSES
    # As a versioned input the folder is what it was: nothing runs again.
    project.run("dvc", "add", "inputs/photos")
    assert project.repro("align") == set()
