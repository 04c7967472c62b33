from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg.cli import _main
from fmbseg.config import Config
from fmbseg.corrections import READERS
from fmbseg.corrections.store import import_corrections
from fmbseg.corrections.target import Target
from fmbseg.data.corrections import Correction, read_corrections
from fmbseg.errors import DataError
from fmbseg.export.brush import encode_brush
from fmbseg.export.source import NOTHING, Classes, Source
from fmbseg.export.sources import open_source
from fmbseg.machine.progress import silent_progress
from tests.export.labels import NAMES, Label, few, hard_source
from tests.export.test_formats import written

Hard = tuple[Source, dict[str, Label]]


@pytest.fixture
def hard(tmp_path: Path) -> Hard:
    return hard_source(tmp_path / "source")


def annotated(tasks: Path) -> Path:
    """Label Studio's export of tasks whose predictions a person has accepted."""
    record = json.loads(tasks.read_text(encoding="utf-8"))
    for number, task in enumerate(record):
        cancelled = {"id": 1, "result": [], "was_cancelled": True}
        accepted = {"id": 2, "result": task.pop("predictions")[0]["result"]}
        task |= {"id": number, "annotations": [accepted, cancelled]}
    tasks.write_text(json.dumps(record), encoding="utf-8")
    return tasks


# Where each exported format has what is imported again.
EXPORTED: dict[str, Callable[[Path], Path]] = {
    "coco": lambda out: out / "annotations" / "instances.json",
    "cvat": lambda out: out / "annotations.zip",
    "label-studio": lambda out: annotated(out / "tasks.json"),
    "mmseg": lambda out: out / "annotations" / "train",
}


def taken(format_: str, file: Path, source: Source, out: Path, **known: str) -> dict[str, Label]:
    """Import a file; the label maps that are there then."""
    origin = Correction(format_, 0, **known)
    target = Target(source)
    import_corrections(READERS[format_], file, target, out, silent_progress(), origin)
    corrected = {}
    for path in (out / "labels").iterdir():
        values = np.asarray(Image.open(path)).astype(np.int32)
        corrected[path.stem] = np.where(values == 255, NOTHING, values)
    return corrected


@pytest.mark.parametrize("classes", [Classes(NAMES), Classes(NAMES, background=2)])
@pytest.mark.parametrize("format_", EXPORTED)
def test_what_was_exported_comes_back_as_it_was(
    hard: Hard, tmp_path: Path, format_: str, classes: Classes
) -> None:
    source = Source(classes, hard[0].images)
    file = EXPORTED[format_](written(source, format_, tmp_path / "out"))
    reader = "png" if format_ == "mmseg" else format_
    found = taken(reader, file, source, tmp_path / "corrections")
    assert set(found) == set(hard[1])
    # Where there is a background, COCO and Label Studio have no other word for "no label".
    same = classes.background is None or format_ in ("cvat", "mmseg")
    record = read_corrections(tmp_path / "corrections")
    assert record is not None
    for name, expected in hard[1].items():
        wanted = expected if same else np.where(expected == NOTHING, 2, expected)
        assert (found[name] == wanted).all()
        assert record.images[name].changed == (wanted != expected).sum()


def test_corrections_keep_their_origin_and_earlier_ones(hard: Hard, tmp_path: Path) -> None:
    source, out = hard[0], tmp_path / "corrections"
    first = tmp_path / "first"
    first.mkdir()
    for name in ("hard", "whole"):
        shutil.copy(tmp_path / "source" / "labels" / f"{name}.png", first)
    taken("png", first, source, out, by="Ada", at="2026-01-01")
    second = tmp_path / "second"
    second.mkdir()
    Image.fromarray(np.full((25, 31), 3, dtype=np.uint8)).save(second / "whole.png")
    found = taken("png", second, source, out)
    assert (found["whole"] == 3).all() and (found["hard"] == hard[1]["hard"]).all()
    record = read_corrections(out)
    assert record is not None
    assert record.classes == NAMES
    assert record.images == {
        "hard": Correction("png", 0, "Ada", "2026-01-01"),
        "whole": Correction("png", 25 * 31),
    }


def coco_file(path: Path, segmentation: Any, category: str = "dog") -> Path:
    """One annotation of the picture `whole`."""
    annotation = {"id": 1, "image_id": 5, "category_id": 9, "segmentation": segmentation}
    record = {
        "images": [{"id": 5, "file_name": "somewhere/whole.PNG", "width": 31, "height": 25}],
        "annotations": [annotation],
        "categories": [{"id": 9, "name": category}],
    }
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def test_coco_s_other_segmentations(hard: Hard, tmp_path: Path) -> None:
    expected = np.full((25, 31), NOTHING)
    expected[5:15, 10:20] = 0
    polygon = [[10, 5, 20, 5, 20, 15, 10, 15]]
    columns = [10 * 25 + 5, *(10, 15) * 9, 10]
    counts = {"size": [25, 31], "counts": [*columns, 25 * 31 - sum(columns)]}
    for segmentation in (polygon, counts):
        file = coco_file(tmp_path / "a.json", segmentation)
        found = taken("coco", file, hard[0], tmp_path / "corrections")
        assert set(found) == {"whole"}
        assert (found["whole"] == expected).all()


def test_label_studio_s_own_storage_names_pictures_by_url(hard: Hard, tmp_path: Path) -> None:
    mask = np.zeros((25, 31), dtype=np.bool_)
    mask[3:9, 4:30] = True
    region = {
        "type": "brushlabels",
        "original_width": 31,
        "original_height": 25,
        "value": {"rle": encode_brush(mask), "brushlabels": ["grass"]},
    }
    tasks = [
        {
            "data": {"image": "/data/local-files/?d=x%2Fwhole.PNG"},
            "annotations": [{"result": [region]}],
        },
        {"data": {"image": "/data/upload/1/hard.jpg"}, "annotations": []},
    ]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks), encoding="utf-8")
    found = taken("label-studio", file, hard[0], tmp_path / "corrections")
    assert set(found) == {"whole"}
    assert (found["whole"] == np.where(mask, 3, NOTHING)).all()
    # In the storage's own folder; and after a task that nobody has annotated.
    tasks[0]["data"] = {"image": "/data/local-files/?d=whole.PNG"}
    tasks.reverse()
    file.write_text(json.dumps(tasks), encoding="utf-8")
    assert set(taken("label-studio", file, hard[0], tmp_path / "again")) == {"whole"}
    # What a task of ours says goes before its picture's address.
    tasks[1]["data"] |= {"image": "/data/upload/1/1f2e-whole.PNG", "image_id": "whole"}
    file.write_text(json.dumps(tasks), encoding="utf-8")
    assert set(taken("label-studio", file, hard[0], tmp_path / "third")) == {"whole"}


def bad_json(folder: Path) -> Path:
    (folder / "a.json").write_text('{"images": [', encoding="utf-8")
    return folder / "a.json"


def deep_json(folder: Path) -> Path:
    (folder / "a.json").write_text("[" * 100_000, encoding="utf-8")
    return folder / "a.json"


def other_json(folder: Path) -> Path:
    (folder / "a.json").write_text('{"a": 1}', encoding="utf-8")
    return folder / "a.json"


def another_picture(folder: Path) -> Path:
    file = coco_file(folder / "a.json", [])
    file.write_text(file.read_text().replace("whole.PNG", "cat.png"), encoding="utf-8")
    return file


def another_size(folder: Path) -> Path:
    file = coco_file(folder / "a.json", [])
    file.write_text(file.read_text().replace('"width": 31', '"width": 32'), encoding="utf-8")
    return file


def png_of_another_size(folder: Path) -> Path:
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(folder / "hard.png")
    return folder


def png_of_no_class(folder: Path) -> Path:
    Image.fromarray(np.full((25, 31), 9, dtype=np.uint8)).save(folder / "whole.png")
    return folder


def archive(folder: Path, labelmap: str, colour: tuple[int, int, int] = (1, 2, 3)) -> Path:
    Image.new("RGB", (31, 25), colour).save(folder / "m.png")
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.writestr("labelmap.txt", labelmap)
        file.write(folder / "m.png", "SegmentationClass/whole.png")
    return folder / "a.zip"


def brush(folder: Path, **changes: Any) -> Path:
    region = {
        "type": "brushlabels",
        "original_width": 31,
        "original_height": 25,
        "value": {"rle": [0, 0, 1], "brushlabels": ["dog"]},
    }
    task = {"data": {"image": "whole.PNG"}, "annotations": [{"result": [region | changes]}]}
    (folder / "a.json").write_text(json.dumps([task]), encoding="utf-8")
    return folder / "a.json"


BAD: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "broken JSON": ("coco", bad_json, "is not valid JSON"),
    "JSON without end": ("label-studio", deep_json, "is not valid JSON"),
    "another JSON": ("coco", other_json, "is no COCO instances file"),
    "no file": ("coco", lambda folder: folder / "no.json", "does not exist"),
    "an unknown class": ("coco", lambda f: coco_file(f / "a", [], "cow"), "the class 'cow', which"),
    "another picture": ("coco", another_picture, "'cat.png', which is none of the 4 pictures"),
    "another size": ("coco", another_size, "32 x 25 px, the picture"),
    "damaged counts": (
        "coco",
        lambda folder: coco_file(folder / "a", {"size": [25, 31]}),
        "the segmentation of annotation 1 is damaged",
    ),
    "counts of another size": (
        "coco",
        lambda folder: coco_file(folder / "a", {"size": [5, 4], "counts": [5, 5, 10]}),
        "a mask of 4 x 5 px",
    ),
    "no archive": ("cvat", bad_json, "is no archive"),
    "a broken label map": ("cvat", lambda f: archive(f, "dog;1,2,3"), "has the line 'dog;1,2,3'"),
    "an unknown name": ("cvat", lambda f: archive(f, "cow:1,2,3::"), "the class 'cow', which"),
    "an unknown colour": (
        "cvat",
        lambda f: archive(f, "dog:9,2,3::"),
        "the colour (1, 2, 3) of no",
    ),
    "tasks that are none": ("label-studio", other_json, "is no JSON export of Label Studio"),
    "a damaged brush": ("label-studio", brush, "a brush mask is damaged"),
    "a brush of another size": (
        "label-studio",
        lambda folder: brush(folder, original_width=30),
        "30 x 25 px, the picture",
    ),
    "another tool": (
        "label-studio",
        lambda folder: brush(folder, type="polygonlabels"),
        "'polygonlabels'",
    ),
    "an empty folder": ("png", lambda folder: folder, "is no folder of label maps"),
    "a PNG of another size": ("png", png_of_another_size, "9 x 9 px, its picture"),
    "a PNG of no class": ("png", png_of_no_class, "holds the value 9"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_imported(
    hard: Hard, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    format_, make, said = BAD[case]
    words = tmp_path / "words.txt"
    words.write_text("\n".join(NAMES), encoding="utf-8")
    out, good, bad = (tmp_path / name for name in ("corrections", "good", "bad"))
    for folder in (good, bad):
        folder.mkdir()
    shutil.copy(tmp_path / "source" / "labels" / "hard.png", good)
    of = ("--of", tmp_path / "source" / "labels", "--images", tmp_path / "source" / "images")
    more = (*of, "--vocabulary", words, "--out", out)

    def run(format_: str, file: Path) -> int:
        call = ("corrections", "import", format_, file, *more)
        return _main([str(word) for word in call])

    assert run("png", good) == 0
    assert "1 pictures taken over, 0 of them differ" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run(format_, make(bad)) == 2
    error = capsys.readouterr().err
    assert said in error.splitlines()[-1], error
    assert sum(line.startswith("fmbseg: ") for line in error.splitlines()) == 1
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert after == before


def test_corrections_of_other_classes_are_kept_apart(hard: Hard, tmp_path: Path) -> None:
    labels, images = tmp_path / "source" / "labels", tmp_path / "source" / "images"
    taken("png", labels, hard[0], tmp_path / "corrections")
    other = open_source(labels, Config(), images, few((*NAMES[:3], "lawn")))
    with pytest.raises(DataError, match="has corrections of other classes"):
        taken("png", labels, other, tmp_path / "corrections")
    with pytest.raises(DataError, match="holds something already"):
        taken("png", labels, hard[0], images)


def test_half_a_file_is_not_imported(hard: Hard, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(tmp_path / "source" / "labels", folder)
    (folder / "whole.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"whole\.png is broken"):
        taken("png", folder, hard[0], tmp_path / "corrections")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "source"]
