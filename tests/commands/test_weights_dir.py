"""`--weights-dir` of every command that loads models stands for FMBSEG_WEIGHTS."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg import cli
from fmbseg.align.checkpoint import ModelReference, load_checkpoint, save_checkpoint
from fmbseg.models import weights
from tests.heads import write_head

COMMANDS = {
    "models evaluate": "models evaluate --set sam.model=sam-vit-b",
    "run": "run masks --set sam.model=sam-vit-b --set data.name=coco_stuff --set data.root=coco "
    "--set data.split=val2017",
    "evaluate": "evaluate --benchmark coco_stuff --root coco --method pseudo --json out.json "
    "--set sam.model=sam-vit-b",
    "predict": "predict coco/images/val2017 --classes dog --out out --checkpoint head",
}
FILES = {"predict": "dinov2_vitb14_pretrain.pth"}


@pytest.fixture
def place(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a picture, its truth, and a head over an encoder that is not here."""
    shutil.copy(repository / "params.yaml", tmp_path)
    for path in ("images/val2017/1.jpg", "annotations/val2017/1.png"):
        target = tmp_path / "coco" / path
        target.parent.mkdir(parents=True)
        shape = (64, 64, 3) if target.suffix == ".jpg" else (64, 64)
        Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(target)
    write_head(tmp_path / "head", 0)
    head = load_checkpoint(tmp_path / "head")
    absent = ModelReference("dinov2-vit-b-14", "0" * 64)
    save_checkpoint(tmp_path / "head", head.head, replace(head.info, encoder=absent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMBSEG_WEIGHTS", str(tmp_path / "elsewhere"))
    (tmp_path / "my" / "weights").mkdir(parents=True)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_weights_are_looked_for_in_the_folder_that_is_given(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = FILES.get(name, "sam_vit_b_01ec64.pth")
    for given, folder in (("", "elsewhere"), (" --weights-dir my/weights", "my/weights")):
        assert cli._main(f"{COMMANDS[name]}{given}".split()) == 2
        assert f"{file} is not in {place / folder}: put it there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "models verify tiny-clip",
        "models evaluate",
        COMMANDS["run"].replace("masks", "detect"),
        COMMANDS["evaluate"],
    ],
)
def test_a_mistyped_folder_does_not_stand_for_the_packages_weights(
    place: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = place / "wieghts"
    assert cli._main([*command.split(), "--weights-dir", "wieghts"]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"fmbseg: --weights-dir: {typed} is no folder: name another, or fetch weights into it with "
        "`fmbseg models pull`\n"
    )


def test_a_folder_of_the_variable_that_is_yet_to_be_made_is_said_once(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("FMBSEG_WEIGHTS", "~/new")
    weights._say_missing.cache_clear()
    for _ in range(2):
        assert cli._main(["models", "verify", "tiny-clip", "tiny-sam"]) == 0
    assert caplog.messages == [
        f"{place / 'new'} is no folder: the tiny models' weights are the package's"
    ]
    # Named by the option, it is made where something is fetched.
    assert cli._main(["models", "pull", "tiny-clip", "--weights-dir", "other"]) == 0
    capsys.readouterr()
