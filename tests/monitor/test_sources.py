"""Sets of pictures wherever they lie: `fmbseg monitor` on what the other commands write."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from fmbseg.cli import _main
from fmbseg.config import Config, parse_config
from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names
from fmbseg.errors import DataError
from fmbseg.machine.progress import silent_progress
from fmbseg.monitor.observed import AREA, CONFIDENCE, DETECTED, DETECTION, LABELLED, MASK, Observed
from fmbseg.monitor.sources import observe
from fmbseg.pseudo.labels import load_label
from fmbseg.scenes.files import write_scenes
from fmbseg.store.paths import Paths
from tests.heads import write_head
from tests.workspace import MakeConfig

NAMES = ["dog", "grass", "sky"]
WORDS = vocabulary_from_names(NAMES)


def _observe(place: Path, config: Config | None = None) -> Observed:
    return observe(place, config or parse_config({}), silent_progress())


def test_stage_1s_labels_are_read_from_its_tables(labelled: Paths, make_config: MakeConfig) -> None:
    found = _observe(labelled.label, make_config())
    words = load_vocabulary("coco_stuff")
    assert (found.classes, found.pictures) == (words.names, 5)
    assert {*found.shares} == {DETECTED, LABELLED, AREA}
    assert {*found.measures} == {MASK, DETECTION}
    label = load_label(sorted((labelled.label / "labels").glob("*.png"))[0])
    counted = np.bincount(label.ravel(), minlength=256)[:171]
    np.testing.assert_allclose(found.shares[AREA][0], counted / counted.sum())
    # What is painted was detected.
    assert not (found.shares[LABELLED] > found.shares[DETECTED]).any()


@pytest.fixture(autouse=True)
def _no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken from, or kept in, the project that the tests run in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with pictures of one kind, `was` and `same`, and `dark` as `same` but darker."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes("voc2012", folder / "voc", train=0, val=48, seed=3, development=True)
    pictures = sorted((folder / "voc" / "JPEGImages").iterdir())
    for name in ("was", "same", "dark"):
        (folder / name).mkdir()
    for index, path in enumerate(pictures):
        place = "was" if index < 24 else "same"
        image = Image.open(path)
        image.save(folder / place / f"{path.stem}.png")
        if place == "same":
            darker = ImageEnhance.Brightness(image).enhance(0.25)
            darker.save(folder / "dark" / f"{path.stem}.png")
    return folder


def _monitor(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = _main(["monitor", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_pictures_of_another_kind_are_drift_and_their_like_are_not(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--vocabulary", "coco_stuff", "--set", "clip.stride=32"]
    code, out, _ = _monitor(capsys, scenes / "was", scenes / "same", *asked)
    assert code == 0 and "no drift" in out
    page = tmp_path / "pages" / "drift.html"
    code, out, _ = _monitor(capsys, scenes / "was", scenes / "dark", *asked, "--out", page)
    assert code == 1
    assert re.search(rf"(?m)^{DETECTION} .* drift$", out)
    text = page.read_text(encoding="utf-8")
    assert "<h1>Drift</h1>" in text and "24 pictures" in text
    assert not re.findall(r"(?:src|href)=\"(?!#)", text)
    # With limits that nothing reaches there is none.
    wide = ["--max-psi", 9, "--max-js", 1, "--max-ks", 1]
    assert _monitor(capsys, scenes / "was", scenes / "dark", *asked, *wide)[0] == 0


def test_predictions_of_two_months(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_head(tmp_path / "head", 0, "voc20")
    for month in ("was", "same"):
        command = ["predict", str(scenes / month), "--out", str(tmp_path / month)]
        options = ["--classes", ", ".join(NAMES), "--checkpoint", str(tmp_path / "head")]
        assert _main([*command, *options]) == 0
    found = _observe(tmp_path / "was")
    assert (found.classes, found.pictures) == (tuple(NAMES), 24)
    label = load_label(sorted((tmp_path / "was").glob("*.label.png"))[0])
    shares = np.bincount(label.ravel(), minlength=3) / label.size
    np.testing.assert_allclose(found.shares[AREA][0], shares, atol=1e-5)
    assert _monitor(capsys, tmp_path / "was", tmp_path / "same")[0] == 0
    # A month in which everything was grass, and surely so.
    for path in (tmp_path / "same").glob("*.json"):
        record = json.loads(path.read_text())
        area = {"class": "grass", "index": 1, "pixels": 1, "share": 1.0, "confidence": 0.9}
        path.write_text(json.dumps(record | {"areas": [area]}))
    code, out, _ = _monitor(capsys, tmp_path / "was", tmp_path / "same")
    assert code == 1 and "grass" in out
    assert (_observe(tmp_path / "same").measures[CONFIDENCE][:, 1] == 0.9).all()


def test_a_labelled_folder_is_held_beside_its_pictures(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((scenes / "was").iterdir())[:4]:
        (few / path.name).write_bytes(path.read_bytes())
    asked = ["--vocabulary", "coco_stuff"]
    assert _main(["label", str(few), *asked, "--out", str(tmp_path / "labels")]) == 0
    found = _observe(tmp_path / "labels")
    assert (found.pictures, found.classes) == (4, load_vocabulary("coco_stuff").names)
    assert found.unlabelled is not None
    code, out, _ = _monitor(capsys, tmp_path / "labels", few, *asked)
    # Both have detected the same.
    assert code == 0
    assert re.search(rf"{DETECTED} +PSI 0.000", out) and re.search(rf"{DETECTION} +KS  0.000", out)


@pytest.mark.parametrize(
    ("names", "options", "reason"),
    [
        (("was", "gone"), [], "gone is no folder: name one of labels, predictions or pictures"),
        (("was", "same"), [], "was holds pictures alone: say what to look for with --classes"),
        (("was", "empty"), ["--classes", "dog"], "empty"),
        (("was", "same"), ["--max-js", "2"], "--max-js"),
    ],
)
def test_a_mistake_is_one_line(
    scenes: Path,
    capsys: pytest.CaptureFixture[str],
    names: tuple[str, str],
    options: list[str],
    reason: str,
) -> None:
    (scenes / "empty").mkdir(exist_ok=True)
    code, _, said = _monitor(capsys, *(scenes / name for name in names), *options)
    assert code == 2
    assert reason in said.splitlines()[-1]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.label.png").touch()
    with pytest.raises(DataError, match=r"a.json does not exist"):
        _observe(tmp_path)
    (tmp_path / "a.json").write_text('{"classes": ["dog"], "areas": [{"index": "x"}]}')
    with pytest.raises(DataError, match=r"a.json is no record of a prediction"):
        _observe(tmp_path)
