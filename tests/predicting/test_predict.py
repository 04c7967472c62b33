"""`fmbseg predict` by every method, and all that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from fmbseg import cli
from fmbseg.commands.asking import ask_as_trained
from fmbseg.commands.options import lenient_config, preset_config
from fmbseg.data.drawn import SCENE_OBJECTS
from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names
from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.methods.predictor import load_predictor
from fmbseg.store.paths import Paths
from tests.workspace import draw_picture

SMALL = ["--set", "clip.short_side=64", "--set", "evaluate.short_side=64"]
HEADLESS = [name for name, method in METHODS.items() if method.head is method.made is None]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures, outside of any project."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(2):
        draw_picture(seed, (64, 48)).save(folder / f"{seed}.png")
    monkeypatch.chdir(tmp_path)
    return folder


def predict(*more: str, classes: str = "dog|puppy, grass, sky", out: str = "out") -> int:
    return cli._main(["predict", "photos", "--classes", classes, "--out", out, *SMALL, *more])


def values(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("method", HEADLESS)
def test_a_method_without_a_head_gives_the_labels_that_are_scored(
    method: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--method", method, "--preset", "tiny", "--set", "run.threads=1") == 0
    config = preset_config("tiny", Path("none"), SMALL[1::2])
    words = vocabulary_from_names(["dog|puppy", "grass", "sky"])
    predictor = load_predictor(method, config)
    for path in sorted(photos.iterdir()):
        with Image.open(path) as image:
            (decision,) = predictor.decide([image.convert("RGB")], words)
        assert (values(Path("out") / f"{path.stem}.label.png") == decision.labels).all()


def test_photos_are_said_to_be_nothing_for_the_tiny_models(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same line by predict and by label."""
    assert predict("--method", "maskclip") == 0
    said = [line for line in caplog.messages if "drawings" in line]
    caplog.clear()
    assert cli._main(["label", "photos", "--classes", "dog, grass", "--out", "labels", *SMALL]) == 0
    assert said == [line for line in caplog.messages if "drawings" in line]
    (line,) = said
    assert "`fmbseg models pull clip-vit-b-16 sam-vit-b` and take --preset base" in line


def test_what_the_models_do_not_know_is_painted_pale(photos: Path) -> None:
    assert predict("--method", "maskclip", out="pale") == 0
    (photos / SCENE_OBJECTS).touch()  # now they lie among scenes
    assert predict("--method", "maskclip", out="full") == 0
    for name in ("0.overlay.png", "1.overlay.png", "sheet.png"):
        pale, full = values(Path("pale") / name), values(Path("full") / name)
        assert pale.shape[0] > full.shape[0]  # a line says why
    source = values(photos / "0.png").astype(int)
    off = []
    for out in ("pale", "full"):
        drawn = values(Path(out) / "0.overlay.png").astype(int)
        factor = 512 // source.shape[1]
        inner = drawn[factor // 2 :: factor, factor // 2 :: factor][: source.shape[0]]
        off.append(np.abs(inner[:, : source.shape[1]] - source).mean())
    assert off[0] < 0.6 * off[1]
    for name in ("0.label.png", "0.json"):
        assert (Path("pale") / name).read_bytes() == (Path("full") / name).read_bytes()


def test_scores_and_areas(photos: Path) -> None:
    assert predict("--method", "maskclip", "--scores", "png") == 0
    assert predict("--method", "maskclip", "--scores", "npz", out="again") == 0
    for name in ("0", "1"):
        label = values(Path("out") / f"{name}.label.png")
        deep = values(Path("out") / f"{name}.scores.png")
        with np.load(Path("again") / f"{name}.scores.npz") as archive:
            confidence = archive["confidence"]
        assert confidence.dtype == np.float32 and confidence.shape == label.shape
        assert (confidence >= 1 / 3 - 1e-6).all() and (confidence <= 1).all()
        assert deep.dtype == np.uint16
        np.testing.assert_allclose(deep / 65535, confidence, atol=1e-5)
        record = json.loads((Path("out") / f"{name}.json").read_text())
        assert {entry["index"] for entry in record["areas"]} == set(np.unique(label).tolist())
        for entry in record["areas"]:
            inside = label == entry["index"]
            assert entry["pixels"] == inside.sum()
            assert entry["confidence"] == pytest.approx(confidence[inside].mean(), abs=1e-5)


def test_outlines_are_those_of_the_label_map(photos: Path) -> None:
    import cv2

    assert predict("--method", "maskclip", "--contours") == 0
    label = values(Path("out/0.label.png"))
    drawn = np.full_like(label, 255)
    found = json.loads(Path("out/0.contours.json").read_text())
    for entry in found:
        outline = np.array(entry["polygon"], dtype=np.int32)
        region = np.zeros_like(label)
        cv2.fillPoly(region, [outline], 1)
        assert region.sum() == entry["pixels"]
        drawn[region > 0] = entry["index"]
    assert (drawn == label).all()


def test_coco_of_a_call_is_replaced_unless_somebody_changed_it(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--method", "maskclip", "--coco", "--export", "label-studio"]
    for _ in range(2):
        assert predict(*command) == 0
    coco = COCO("out/coco/annotations/instances.json")
    for number, image in coco.imgs.items():
        label = values(Path("out") / f"{Path(image['file_name']).stem}.label.png")
        found = np.full_like(label, 255)
        for each in coco.loadAnns(coco.getAnnIds(imgIds=number)):
            found[rle.decode(each["segmentation"]) > 0] = each["category_id"] - 1
        assert (found == label).all()
    tasks = json.loads(Path("out/label-studio/tasks.json").read_text())
    assert len(tasks) == 2
    mine = Path("out/coco/annotations/instances.json")
    mine.write_text("{}")
    capsys.readouterr()
    assert predict(*command) == 2
    assert "instances.json has changed) and stays as it is" in capsys.readouterr().err
    assert mine.read_text() == "{}"
    # Its pictures are no input of a later call.
    again = ["predict", ".", "--classes", "a, b", "--method", "maskclip", "--out", "new", *SMALL]
    assert cli._main(again) == 0
    found = {path.name for path in Path("new").glob("*.label.png")}
    assert found == {"photos__0.label.png", "photos__1.label.png"}


def test_what_cannot_be_is_one_line(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, said in (
        ((), "no trained head in data/align"),
        (("--method", "maskclip", "--checkpoint", "x"), "--method maskclip has no trained head"),
        (("--method", "nothing"), "'nothing' is not one of fmbseg, maskclip"),
        (("--method", "maskclip", "--scores", "jpg"), "'jpg' is not one of png, npz"),
        (("--method", "maskclip", "--export", "coco, gif"), "no format 'gif': use one of coco"),
        (("--preset", "base", "--checkpoint", "x"), "a trained head brings its own models"),
    ):
        assert predict(*more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not Path("out").exists()


def test_one_class_is_not_painted_everywhere(photos: Path) -> None:
    assert predict("--method", "maskclip", classes="dog") == 0
    record = json.loads(Path("out/0.json").read_text())
    assert record["classes"] == ["dog", "background"] and record["background"] == 1
    found = {entry["class"]: entry["share"] for entry in record["areas"]}
    assert found["background"] > 0.1


def test_groups_are_their_classes_labels_together(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "groups.yaml").write_text("animal: [dog, cat]\nnature: grass\n")
    rule = ["--method", "maskclip", "--set", "evaluate.protocol=sclip"]
    names = "dog, sky, cat, grass"
    assert predict(*rule, classes=names, out="fine") == 0
    assert predict(*rule, "--groups", "groups.yaml", classes=names, out="coarse") == 0
    record = json.loads(Path("coarse/0.json").read_text())
    assert record["classes"] == ["animal", "sky", "nature"]
    for name in ("0", "1"):
        fine = values(Path("fine") / f"{name}.label.png")
        coarse = values(Path("coarse") / f"{name}.label.png")
        assert (np.array([0, 1, 0, 2])[fine] == coarse).all()


@pytest.mark.parametrize("method", ["maskclip", "naclip", "proxyclip"])
def test_a_tile_that_covers_a_picture_changes_nothing(photos: Path, method: str) -> None:
    command = ["--method", method, "--scores", "npz"]
    assert predict(*command, out="plain") == 0
    assert predict(*command, "--tile", "64", out="tiled") == 0
    made = {path.name: path.read_bytes() for path in Path("tiled").iterdir() if path.is_file()}
    for name in (name for name in made if not name.endswith(".sha256")):
        assert made[name] == (Path("plain") / name).read_bytes(), name


def test_what_needs_the_whole_picture_refuses_tiles(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, said in (
        (("--method", "pseudo"), "stage 1 needs the whole picture at once: leave out --tile"),
        (("--method", "corrclip"), "the vote of its masks needs the whole picture at once"),
        (("--method", "maskclip", "--smooth", "0.5"), "--tile is for pictures"),
        (("--method", "maskclip", "--set", "evaluate.refine=pamr"), "evaluate.refine needs the"),
        (
            ("--method", "maskclip", "--set", "evaluate.protocol=tcl"),
            "the protocol tcl cuts pictures into windows of its own",
        ),
    ):
        capsys.readouterr()
        assert predict(*more, "--tile", "64") == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_picture_that_only_tiles_are_enough_for_has_a_smaller_overlay(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if 6,000 px were fifty million: labels at its own size, and no place on the sheet."""
    from fmbseg.predicting import results, run

    draw_picture(7, (120, 90)).save(photos / "large.png")
    for module in (results, run):
        monkeypatch.setattr(module, "MAX_PIXELS", 6000)
    monkeypatch.setattr(results, "_LARGE_SIDE", 40)
    assert predict("--method", "maskclip", "--tile", "48") == 0
    assert values(Path("out/large.label.png")).shape == (90, 120)
    small, plain = values(Path("out/large.overlay.png")), values(Path("out/0.overlay.png"))
    assert small.shape[1] == 40 * 13 and plain.shape[1] == 64 * 8  # enlarged by whole numbers
    assert Path("out/sheet.png").exists()


def test_a_head_is_refined_as_its_scores_are(
    workspace: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.root)
    picture = draw_picture(1, (96, 64))
    picture.save("one.png")
    sets = ["evaluate.refine=propagate", "run.threads=1"]
    command = ["predict", "one.png", "--vocabulary", "coco_stuff", "--out", "out"]
    assert cli._main([*command, "--set", sets[0], "--set", sets[1]]) == 0
    config = ask_as_trained(lenient_config(Path("params.yaml"), sets), workspace.align, sets)
    predictor = load_predictor("fmbseg", config, workspace.align)
    (decision,) = predictor.decide([picture], load_vocabulary("coco_stuff"))
    assert (values(Path("out/one.label.png")) == decision.labels).all()
