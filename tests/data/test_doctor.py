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


# Of each set: its folder in the samples; the splits that are there, with the images of the full set
# and those that are here; splits that are not; and what else the report says.
SETS: dict[str, tuple[str, dict[str, tuple[int, str]], dict[str, int], list[str]]] = {
    "voc21": (
        "voc2012/VOCdevkit/VOC2012",
        {"val": (1449, "JPEGImages/*.jpg")},
        {"train": 1464, "trainval": 2913},
        [
            "the full set: PASCAL VOC 2012's VOCtrainval_11-May-2012.tar",
            "not scored: 255 (void, the objects' outlines)",
        ],
    ),
    "voc20": (
        "voc2012/VOCdevkit/VOC2012",
        {"val": (1449, "JPEGImages/*.jpg")},
        {"train": 1464, "trainval": 2913},
        ["not scored: 0 (background) and 255 (void)"],
    ),
    "ade20k": (
        "ade20k/ADEChallengeData2016",
        {"validation": (2000, "images/validation/*.jpg")},
        {"training": 20210},
        ["ADEChallengeData2016.zip"],
    ),
    "cityscapes": (
        "cityscapes",
        {"train": (2975, "leftImg8bit/train/*/*.png")},
        {"val": 500},
        ["leftImg8bit_trainvaltest.zip", "0 road"],
    ),
    "cityscapes_small": (
        "cityscapes_small",
        {"val": (500, "leftImg8bit/val/*/*.png")},
        {"train": 2975},
        [],
    ),
    "coco_stuff": (
        "coco_stuff164k",
        {
            "val2017": (5000, "images/val2017/*.jpg"),
            "train2017": (118287, "images/train2017/*.jpg"),
        },
        {},
        ["stuffthingmaps_trainval2017.zip"],
    ),
    "coco_object": (
        "coco_stuff164k",
        {
            "val2017": (5000, "images/val2017/*.jpg"),
            "train2017": (118287, "images/train2017/*.jpg"),
        },
        {},
        [
            "not scored: none: unlabelled pixels (255) and the 91 stuff classes are background",
            "0 background",
            "0.000 %       0  not scored",
        ],
    ),
    "camvid": (
        "camvid",
        {"train": (367, "train/*.png"), "val": (101, "val/*.png")},
        {"test": 233},
        ["SegNet tutorial"],
    ),
}


@pytest.mark.parametrize("key", SETS)
def test_the_report_on_each_set(
    key: str, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, sheet = key.replace("_small", ""), tmp_path / "sheet.png"
    folder, here, absent, more = SETS[key]
    root = samples / folder
    assert doctor(name, root, sheet) == 0
    shown = capsys.readouterr().out
    for split, (full, pattern) in here.items():
        count = len(list(root.glob(pattern)))
        assert count > 0
        line = f"{split}: {count} of {full} images, {count} annotated; "
        assert f"{line}{full - count} of the full set are not here" in shown, shown
    for split, full in absent.items():
        assert f"{split}: not here ({full} images in the full set): {name}: " in shown, shown
    for part in more:
        assert part in shown, shown
    assert shown.endswith("no file is broken\n")
    picture = Image.open(sheet)
    assert picture.width > 400 and picture.height > 200


def test_the_histogram_is_that_of_the_labels(samples: Path) -> None:
    root = samples / SETS["voc20"][0]
    report = examine("voc20", root, silent_progress())[0]
    raw = np.asarray(Image.open(next((root / "SegmentationClass").glob("*.png"))))
    counts = np.bincount(raw.ravel(), minlength=256)
    assert report.pixels[:20].tolist() == counts[1:21].tolist()
    assert report.pixels[255] == counts[0] + counts[255]


def test_the_report_on_photos(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, sheet = tmp_path / "photos", tmp_path / "sheet.png"
    shutil.copytree(samples / "photos", root)
    # Without classes nothing can be made of them.
    assert doctor("folder", root, sheet) == 2
    shown, said = capsys.readouterr()
    count = len(list(root.iterdir()))
    expected = f"all: {count} images, 0 annotated (enough to train; scoring needs annotations)"
    assert expected in shown
    assert shown.endswith("no file is broken\n")
    assert "vocabulary.yaml does not exist, nor classes.txt: write one" in said
    assert "the full set" not in shown and not sheet.exists()
    (root / "classes.txt").write_text("dog\ncat\n")
    assert doctor("folder", root, sheet) == 0
    assert "classes: dog, cat" in capsys.readouterr().out


def test_one_split_alone_will_do(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "coco"
    for part in ("images", "annotations"):
        source = samples / "coco_stuff164k" / part / "val2017"
        shutil.copytree(source, root / part / "val2017")
    for name in ("coco_stuff", "coco_object"):
        assert doctor(name, root, tmp_path / "sheet.png") == 0
        shown = capsys.readouterr().out
        assert "val2017: 3 of 5000 images, 3 annotated" in shown
        assert "train2017: not here (118287 images in the full set)" in shown


def test_every_broken_file_is_named(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "coco"
    for path in (samples / "coco_stuff164k").rglob("*2017/*"):
        target = root / path.relative_to(samples / "coco_stuff164k")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    images = sorted((root / "images/train2017").iterdir())
    truth = root / "annotations/train2017"
    missing, small, illegal = (truth / f"{path.stem}.png" for path in images[:3])
    missing.unlink()
    Image.open(small).resize((16, 12), Image.Resampling.NEAREST).save(small)
    values = np.asarray(Image.open(illegal)).copy()
    values[:5] = 201
    Image.fromarray(values).save(illegal)
    truncated, orphan = images[3], truth / "000000999999.png"
    whole = truncated.read_bytes()
    truncated.write_bytes(whole[: len(whole) // 2])
    shutil.copyfile(truth / f"{images[4].stem}.png", orphan)

    assert doctor("coco_stuff", root, tmp_path / "sheet.png") == 2
    captured = capsys.readouterr()
    error = captured.err.splitlines()[-1]
    assert error.startswith("fmbseg: coco_stuff: 5 files are missing or broken")
    reasons = {
        missing: "has no annotation",
        small: "is 16 x 12 px, expected the size of its image",
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


def photo(path: Path, size: tuple[int, int] = (64, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_all_broken_pictures_are_named_where_there_are_no_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "photos"
    for name in ("a.jpg", "b.jpg", "c.png", "d.png", "e/f.png"):
        photo(root / name)
    photo(root / "thin.png", (4, 800))
    (root / "classes.txt").write_text("dog\nsky\n")
    (root / "a.jpg").write_bytes(b"")
    (root / "b.jpg").write_bytes((root / "b.jpg").read_bytes()[:-500])
    (root / "c.png").write_bytes(b"hello")
    (root / "gone.jpg").symlink_to("nowhere")
    (root / "g.heic").write_bytes(b"x")
    assert doctor("folder", root, tmp_path / "sheet.png") == 2
    captured = capsys.readouterr()
    assert "folder: 5 files are missing or broken" in captured.err
    for name in ("a.jpg", "b.jpg", "c.png", "thin.png", "gone.jpg"):
        assert f"{root / name}" in captured.err
    assert "all: 6 images, 0 annotated" in captured.out
    assert f"left out: {root / 'g.heic'} is HEIC" in captured.out
    # The sheet shows the sound ones.
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 100


def test_a_broken_class_list_does_not_hide_broken_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"hello")
    (tmp_path / "classes.txt").write_text("dog\ndog\n")
    assert doctor("folder", tmp_path, tmp_path / "sheet.png") == 2
    shown = capsys.readouterr().out
    assert "b.jpg is broken" in shown and "'dog' stands twice" in shown


def test_every_label_file_is_used_or_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "photos"
    (root / "labels").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photo(root / name)
    (root / "classes.txt").write_text("background\ndog\ngrass\n")
    label = Image.fromarray((np.arange(64 * 48).reshape(48, 64) % 3).astype(np.uint8))
    label.save(root / "labels" / "a.PNG", "PNG")
    label.save(root / "labels" / "b.png", "JPEG")
    label.save(root / "labels" / "c.tif")
    label.save(root / "labels" / "d.png")
    assert doctor("folder", root, tmp_path / "sheet.png") == 2
    shown = capsys.readouterr().out
    assert "all: 3 images, 2 annotated" in shown
    assert "b.png is JPEG under another name" in shown
    assert "c.tif is an annotation without an image" in shown
    assert "d.png is an annotation without an image" in shown
    assert "a.PNG" not in shown


@pytest.mark.parametrize(
    ("values", "classes", "told"),
    [
        ([0, 255], 2, "0 alone"),
        ([1, 2], 3, "never 0: are classes counted from 1"),
        ([0, 1, 255], 3, None),
        ([1], 2, None),
    ],
)
def test_odd_label_values_are_told(
    values: list[int],
    classes: int,
    told: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "labels").mkdir()
    label = np.resize(np.array(values, dtype=np.uint8), (48, 64))
    Image.fromarray(label).save(tmp_path / "labels" / "a.png")
    (tmp_path / "classes.txt").write_text("".join(f"class {k}\n" for k in range(classes)))
    assert doctor("folder", tmp_path, tmp_path / "sheet.png") == 0
    shown = capsys.readouterr().out
    assert ("look at the labels" in shown) == (told is not None)
    assert told is None or told in shown
