"""`fmbseg predict` and `evaluate` in processes of their own, with a head of random weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmbseg import cli
from fmbseg.align.checkpoint import CheckpointInfo, ModelReference, save_checkpoint
from fmbseg.align.heads import seeded_head
from fmbseg.align.record import HeadConfig
from fmbseg.config import InferenceSection
from fmbseg.data.vocabulary import vocabulary_from_names
from fmbseg.models import tiny
from fmbseg.models.weights import weights_digest


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head with random weights over the tiny models."""
    folder = tmp_path_factory.mktemp("cli-checkpoint")
    encoder = tiny.architecture("encoder")["model_args"]["embed_dim"]
    config = HeadConfig("linear", encoder, tiny.architecture("clip")["embed_dim"], 4)
    info = CheckpointInfo(
        encoder=ModelReference("tiny-encoder", weights_digest("tiny-encoder")),
        clip=ModelReference("tiny-clip", weights_digest("tiny-clip")),
        vocabularies=(vocabulary_from_names(["dog", "cat"]),),
        templates="single",
        short_side=64,
        inference=InferenceSection(short_side=64),
        training={},
        metrics={},
    )
    save_checkpoint(folder, seeded_head(config, 0), info)
    return folder


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """Outside of any project, with pictures of which two have one name and one is cut off."""
    rng = np.random.default_rng(0)
    for name in ("a.b.png", "more/a.b.png", "more/b.jpg", "broken.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    whole = (tmp_path / "broken.jpg").read_bytes()
    (tmp_path / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def run(command: str, workplace: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fmbseg", *command.split()],
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_predict_does_all_pictures_it_can_and_names_the_others(
    workplace: Path, checkpoint: Path
) -> None:
    done = run(
        f"predict a.b.png broken.jpg gone.png more --classes dog,grass --out out/here "
        f"--checkpoint {checkpoint}",
        workplace,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("fmbseg: 2 of 5 not done: broken.jpg is broken")
    assert "gone.png does not exist" in line
    out = workplace / "out" / "here"
    endings = (".json", ".label.png", ".overlay.png")
    names = {f"{name}{ending}" for name in ("a.b", "a.b-2", "b") for ending in endings}
    names |= {"fmbseg-results.sha256", "sheet.png"}
    assert {path.name for path in out.iterdir()} == names

    record = json.loads((out / "a.b-2.json").read_text())
    assert record["image"] == "more/a.b.png"
    assert record["classes"] == ["dog", "grass"]
    assert (record["width"], record["height"]) == (70, 50)
    assert sum(entry["pixels"] for entry in record["areas"]) == 70 * 50
    with Image.open(out / "a.b-2.label.png") as image:
        assert image.mode == "P"
        label = np.asarray(image)
    assert label.shape == (50, 70)
    for entry in record["areas"]:
        assert entry["pixels"] == int((label == entry["index"]).sum())
    with Image.open(out / "a.b.overlay.png") as image:
        assert image.mode == "RGB"


def test_predict_replaces_nothing_that_it_did_not_write(
    workplace: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    (workplace / "broken.jpg").unlink()
    command = f"predict . --classes dog,grass --out . --checkpoint {checkpoint}".split()
    own = workplace / "a.b.json"
    own.write_text('{"shapes": []}')  # of a labelling tool
    assert cli._main(command) == 2
    assert own.read_text() == '{"shapes": []}'
    assert not list(workplace.glob("*.overlay.png"))  # nothing was begun
    own.unlink()

    assert cli._main(command) == 0
    results = sorted(workplace.glob("*.json"))
    names = [path.name for path in results]
    assert names == ["a.b.json", "more__a.b.json", "more__b.json"]
    made = {path: path.read_bytes() for path in workplace.glob("*") if path.is_file()}
    # Its own results are no pictures, and may be replaced.
    assert cli._main(command) == 0
    assert made == {path: path.read_bytes() for path in workplace.glob("*") if path.is_file()}
    # Those that somebody worked on since may not.
    label = workplace / "more__b.label.png"
    Image.new("L", (70, 50)).save(label)
    edited = label.read_bytes()
    assert cli._main(command) == 2
    assert label.read_bytes() == edited


def test_predict_names_many_that_fail_and_stops_where_it_is_told_to(
    workplace: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workplace)
    photos = workplace / "photos"
    photos.mkdir()
    for index in range(6):
        (photos / f"{index}.jpg").write_bytes(b"hello")
    Image.new("RGB", (2, 800)).save(photos / "thin.png")
    Image.new("RGB", (40, 30)).save(photos / "sound.png")
    Image.new("RGB", (40, 30)).save(os.fsencode(photos) + b"/caf\xe9.png")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "phone.HEIC").write_bytes(b"")
    command = f"predict photos --classes dog,grass --out out --checkpoint {checkpoint}".split()
    assert cli._main([*command, "--strict"]) == 2
    assert not (workplace / "out").exists()
    capsys.readouterr()
    assert cli._main(command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "fmbseg: 9 of 10 not done: reasons above"
    told = "\n".join(lines)
    for name in ("thin.png has 2 x 800 px", r"caf\udce9.png has a name that is not UTF-8"):
        assert f"not done: photos/{name}" in told
    assert "not done: photos/pipe.jpg is no regular file" in told
    assert "left out: photos/phone.HEIC is HEIC" in told
    assert [path.name for path in (workplace / "out").glob("*.json")] == ["sound.json"]


def test_predict_with_a_benchmarks_names(workplace: Path, checkpoint: Path) -> None:
    done = run(
        f"predict a.b.png --vocabulary voc21 --out out --checkpoint {checkpoint} "
        "--set evaluate.background_threshold=1.0 --set evaluate.short_side=64",
        workplace,
    )
    assert done.returncode == 0, done.stderr
    files = "NAME.overlay.png, NAME.label.png and NAME.json; sheet.png shows some"
    head, row, never, last = done.stdout.splitlines()
    assert head.split() == ["class", "images", "area", "confidence"]
    assert row.split()[:4] == ["background", "1", "100.0", "%"]
    assert never.startswith("in no picture (20): aeroplane, bicycle")
    assert last == f"1 picture -> out: {files}"
    asked, drawings = done.stderr.splitlines()
    assert asked.startswith("fmbseg: ")
    assert "asked with evaluate.background_threshold=1.0" in asked
    # The pictures are no scenes.
    assert "the tiny models know drawings of emoji glyphs only" in drawings
    record = json.loads((workplace / "out" / "a.b.json").read_text())
    assert len(record["classes"]) == 21
    # The --set reached the segmenter: below a threshold of 1 everything is background.
    assert [entry["class"] for entry in record["areas"]] == ["background"]


def test_evaluate_scores_a_folder_of_scenes(workplace: Path, checkpoint: Path) -> None:
    made = run("data scenes --layout voc2012 --images 4 --seed 1 --out VOC2012", workplace)
    assert made.returncode == 0, made.stderr
    assert made.stdout == "VOC2012: 4 training and 1 validation scenes\n"
    before = {path.name for path in workplace.iterdir()}
    head = f"--checkpoint {checkpoint}"
    for method, more in (("maskclip", "--split train --limit 3"), ("fmbseg", head)):
        done = run(
            f"evaluate --benchmark voc20 --root VOC2012 --method {method} "
            f"--json results/{method}.json {more}",
            workplace,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{method} on voc20: ")
        assert "asked with" not in done.stderr
    scored = {
        method: json.loads((workplace / "results" / f"{method}.json").read_text())
        for method in ("maskclip", "fmbseg")
    }
    for method, result in scored.items():
        assert result["benchmark"] == "voc20"
        assert result["method"] == method
        assert len(result["per_class_iou"]) == 20
    assert scored["maskclip"]["images"] == 3
    assert scored["fmbseg"]["images"] == 1
    sha256 = json.loads((checkpoint / "checkpoint.json").read_text())["sha256"]
    assert scored["fmbseg"]["checkpoint_sha256"] == sha256
    assert scored["maskclip"]["checkpoint_sha256"] is None
    # Nothing but the results stays.
    assert {path.name for path in workplace.iterdir()} == {*before, "results"}


def test_a_head_is_scored_as_it_is_asked(
    workplace: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As its checkpoint says, with other parameters in a file too, unless the call says so."""
    monkeypatch.chdir(workplace)
    scenes = "data scenes --layout voc2012 --images 4 --seed 1 --out VOC2012"
    assert cli._main(scenes.split()) == 0
    (workplace / "own.yaml").write_text("evaluate: {background_threshold: 0.6}")
    command = f"evaluate --benchmark voc21 --root VOC2012 --method fmbseg --checkpoint {checkpoint}"
    for more, said, name, threshold in (
        ("", None, "fmbseg", 0.1),
        ("--params own.yaml", "its own evaluate.background_threshold=0.1, not", "fmbseg", 0.1),
        ("--set evaluate.background_threshold=0.6", "=0.6, not with its own", "fmbseg", 0.6),
        ("--protocol sclip", "asked with evaluate.protocol=sclip, not", "sclip", 0.1),
    ):
        caplog.clear()
        assert cli._main([*command.split(), "--json", "result.json", *more.split()]) == 0
        assert len(caplog.messages) == (0 if said is None else 1)
        assert said is None or said in caplog.text
        protocol = json.loads((workplace / "result.json").read_text())["protocol"]
        assert (protocol["name"], protocol["background_threshold"]) == (name, threshold)
    assert not (workplace / ".fmbseg").exists()


def test_outside_a_project_predict_has_the_machines_threads(
    workplace: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    command = f"predict a.b.png --classes dog,cat --out out --checkpoint {checkpoint}".split()
    torch.set_num_threads(3)
    assert cli._main(command) == 0
    assert torch.get_num_threads() == 3
    assert cli._main([*command, "--set", "run.device=cpu"]) == 0
    assert torch.get_num_threads() == 3
    assert cli._main([*command, "--set", "run.threads=4"]) == 0
    assert torch.get_num_threads() == 4
    (workplace / "params.yaml").write_text("run: {threads: 2}")
    assert cli._main(command) == 0
    assert torch.get_num_threads() == 2
