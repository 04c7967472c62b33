"""`fmbseg data doctor`: what is there, what is missing, and each broken file by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg.cli import _main
from fmbseg.data.doctor import examine
from fmbseg.errors import DataError
from fmbseg.machine.progress import silent_progress
from fmbseg.scenes.files import write_scenes
from fmbseg.scenes.layouts import SCENE_LAYOUTS


def doctor(name: str, root: Path, sheet: Path) -> int:
    return _main(["data", "doctor", name, "--root", str(root), "--sheet", str(sheet)])


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("voc21", "voc2012/VOCdevkit/VOC2012", {"val": (1, 1)}),
        ("voc20", "voc2012/VOCdevkit/VOC2012", {"val": (1, 1)}),
        ("ade20k", "ade20k/ADEChallengeData2016", {"validation": (1, 1)}),
        ("cityscapes", "cityscapes_small", {"val": (1, 1)}),
        ("coco_stuff", "coco_stuff164k", {"val2017": (3, 3), "train2017": (13, 13)}),
        ("coco_object", "coco_stuff164k", {"val2017": (3, 3), "train2017": (13, 13)}),
        ("folder", "photos", {"all": (8, 0)}),
    ],
)
def test_real_samples(
    name: str, folder: str, expected: dict[str, tuple[int, int]], realdata: Path
) -> None:
    reports = examine(name, realdata / folder, silent_progress())
    there = {r.split: (r.images, r.annotated) for r in reports if r.absent is None}
    assert there == expected
    for report in reports:
        assert report.problems == ()
        if report.absent is not None:
            assert "does not exist" in report.absent
            assert report.full is not None and report.full > 0
    # The histogram is that of the labels.
    if name == "voc20":
        raw = np.asarray(Image.open(next((realdata / folder / "SegmentationClass").glob("*.png"))))
        counts = np.bincount(raw.ravel(), minlength=256)
        assert reports[0].pixels[:20].tolist() == counts[1:21].tolist()
        assert reports[0].pixels[255] == counts[0] + counts[255]


# What is there of each real set, what of the full one is not, and one class with its pixels.
SHOWN = {
    ("voc21", "voc2012/VOCdevkit/VOC2012"): [
        "val: 1 of 1449 images, 1 annotated; 1448 of the full set are not here",
        "train: not here (1464 images in the full set): voc21: ",
        "trainval: not here (2913 images in the full set): voc21: ",
        "the full set: PASCAL VOC 2012's VOCtrainval_11-May-2012.tar",
        "not scored: 255 (void, the objects' outlines)",
    ],
    ("ade20k", "ade20k/ADEChallengeData2016"): [
        "validation: 1 of 2000 images, 1 annotated; 1999 of the full set are not here",
        "training: not here (20210 images in the full set): ade20k: ",
        "ADEChallengeData2016.zip",
    ],
    ("cityscapes", "cityscapes"): [
        "val: not here (500 images in the full set): cityscapes: ",
        "train: 3 of 2975 images, 3 annotated; 2972 of the full set are not here",
        "leftImg8bit_trainvaltest.zip",
        "0 road",
    ],
    ("cityscapes", "cityscapes_small"): [
        "val: 1 of 500 images, 1 annotated; 499 of the full set are not here",
        "train: not here (2975 images in the full set): cityscapes: ",
    ],
    ("coco_stuff", "coco_stuff164k"): [
        "val2017: 3 of 5000 images, 3 annotated; 4997 of the full set are not here",
        "train2017: 13 of 118287 images, 13 annotated; 118274 of the full set are not here",
        "stuffthingmaps_trainval2017.zip",
    ],
    ("coco_object", "coco_stuff164k"): [
        "val2017: 3 of 5000 images, 3 annotated; 4997 of the full set are not here",
        "not scored: none: unlabelled pixels (255) and the 91 stuff classes are background",
        "0 background",
        "0.000 %       0  not scored",
    ],
    ("camvid", "camvid"): [
        "test: not here (233 images in the full set): camvid: ",
        "train: 184 of 367 images, 184 annotated; 183 of the full set are not here",
        "val: 50 of 101 images, 50 annotated; 51 of the full set are not here",
        "SegNet tutorial",
    ],
    ("folder", "photos"): [
        "all: 8 images, 0 annotated (enough to train; scoring needs annotations)",
        "vocabulary.yaml does not exist, nor classes.txt",
    ],
    ("folder", "bsds500"): ["all: 60 images, 0 annotated"],
}


@pytest.mark.parametrize(("name", "folder"), SHOWN)
def test_the_report_on_each_real_set(
    name: str, folder: str, realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert doctor(name, realdata / folder, sheet) == 0
    shown = capsys.readouterr().out
    for part in SHOWN[name, folder]:
        assert part in shown, shown
    assert shown.endswith("no file is broken\n")
    if name == "folder":
        assert "the full set" not in shown and not sheet.exists()
    else:
        picture = Image.open(sheet)
        assert picture.width > 400 and picture.height > 200


def test_one_split_alone_will_do(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "coco"
    for part in ("images", "annotations"):
        source = realdata / "coco_stuff164k" / part / "val2017"
        shutil.copytree(source, root / part / "val2017")
    for name in ("coco_stuff", "coco_object"):
        assert doctor(name, root, tmp_path / "sheet.png") == 0
        shown = capsys.readouterr().out
        assert "val2017: 3 of 5000 images, 3 annotated" in shown
        assert "train2017: not here (118287 images in the full set)" in shown


def test_every_broken_file_is_named(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "coco"
    for path in (realdata / "coco_stuff164k").rglob("*2017/*"):
        target = root / path.relative_to(realdata / "coco_stuff164k")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    images = sorted((root / "images/train2017").iterdir())
    truth = root / "annotations/train2017"
    missing, small, illegal = (truth / f"{path.stem}.png" for path in images[:3])
    missing.unlink()
    Image.open(small).resize((64, 48), Image.Resampling.NEAREST).save(small)
    values = np.asarray(Image.open(illegal)).copy()
    values[:5] = 201
    Image.fromarray(values).save(illegal)
    truncated, orphan = images[3], truth / "000000999999.png"
    truncated.write_bytes(truncated.read_bytes()[:-40_000])
    shutil.copyfile(truth / f"{images[4].stem}.png", orphan)

    assert doctor("coco_stuff", root, tmp_path / "sheet.png") == 2
    captured = capsys.readouterr()
    error = captured.err.splitlines()[-1]
    assert error.startswith("fmbseg: coco_stuff: 5 files are missing or broken")
    reasons = {
        missing: "has no annotation",
        small: "is 64 x 48 px, expected the size of its image",
        illegal: "holds the value 201, expected COCO category id - 1",
        truncated: "is broken, truncated",
        orphan: "is an annotation without an image",
    }
    lines = [line for line in captured.out.splitlines() if "broken:" in line]
    assert len(lines) == 5
    for path, reason in reasons.items():
        assert str(path) in error
        assert any(str(path) in line and reason in line for line in lines), path
    assert "val2017: 3 of 5000 images, 3 annotated" in captured.out


def test_a_list_that_names_missing_and_double_images(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    write_scenes("voc2012", root, train=1, val=3)
    names = root / "ImageSets/Segmentation/val.txt"
    names.write_text(names.read_text() + "2012_000001\n2012_000099\n")
    report = examine("voc21", root, silent_progress(), ["val"])[0]
    assert [problem.path.name for problem in report.problems] == [
        "2012_000099.jpg",
        "2012_000001.jpg",
    ]


def test_nothing_there_says_what_to_download(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor("ade20k", tmp_path / "none", tmp_path / "s.png") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "none does not exist" in line and "ADEChallengeData2016.zip" in line
    assert not (tmp_path / "s.png").exists()
    with pytest.raises(DataError, match="use one of voc21"):
        examine("voc99", tmp_path, silent_progress())


BENCHMARKS = {
    "voc2012": ("voc20", "voc21"),
    "pascal_context": ("context59", "context60"),
    "coco_stuff164k": ("coco_object", "coco_stuff"),
    "cityscapes": ("cityscapes",),
    "ade20k": ("ade20k",),
    "camvid": ("camvid",),
    "folder": ("folder",),
}


@pytest.mark.parametrize("layout", SCENE_LAYOUTS)
def test_scenes_of_every_layout_are_sound(layout: str, tmp_path: Path) -> None:
    write_scenes(layout, tmp_path, train=2, val=10)
    for name in BENCHMARKS[layout]:
        reports = examine(name, tmp_path, silent_progress())
        assert sum(r.images for r in reports) == 12
        assert all(r.problems == () and r.annotated == r.images for r in reports)
        assert sum(r.pixels[:255].sum() for r in reports) > 0
