"""From a clone to a COCO file and tasks for Label Studio: `make labels-demo`, as it is written."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from fmbseg import cli

EXPORTS = ["--export", "coco,label-studio"]


def recipe(repository: Path) -> list[list[str]]:
    """The commands of the target, without make."""
    text = (repository / "Makefile").read_text()
    found = re.search(r"(?m)^labels-demo: install .*\n((?:\t.*\n)+)", text)
    assert found is not None
    return [shlex.split(line) for line in found[1].replace("\\\n", "").splitlines()]


@pytest.mark.slow
def test_twelve_scenes_become_files_of_other_tools(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for program, *arguments in recipe(repository):
        assert program == "fmbseg"
        assert cli._main(arguments) == 0
    out = tmp_path / "data" / "labels-demo" / "labels"
    coco = COCO(out / "coco" / "annotations" / "instances.json")
    assert len(coco.imgs) == 12 and len(coco.anns) > 12
    tasks = json.loads((out / "label-studio" / "tasks.json").read_text())
    assert len(tasks) == 12 and all(task["predictions"][0]["result"] for task in tasks)
    assert caplog.messages == []  # drawings are what the tiny models know


@pytest.mark.slow
def test_photos_end_without_an_error_and_with_a_word(
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(photos[0].parent)
    classes = ["--classes", "dog|puppy, cat|kitten, car|truck, road, grass"]
    assert cli._main(["label", folder, *classes, "--out", "labels", *EXPORTS]) == 0
    assert len(COCO("labels/coco/annotations/instances.json").imgs) == len(photos)
    (line,) = [line for line in caplog.messages if "drawings" in line]
    assert "label photos at random" in line and "take --preset base" in line
