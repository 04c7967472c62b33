"""Every format as its documentation has it; `test_readers.py` opens them by their libraries."""

from __future__ import annotations

import json
import runpy
import zipfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from fmbseg.cli import _main as fmbseg
from fmbseg.data.labels import UNLABELLED
from fmbseg.errors import DataError
from fmbseg.export import FORMATS
from fmbseg.export.pictures import voc_colours
from fmbseg.export.source import NOTHING, Classes, Source
from fmbseg.export.writer import Options, export
from fmbseg.machine.progress import silent_progress
from tests.export.labels import NAMES, Label, hard_source, write_labels

# The same classes where one is the background.
GROUND = Classes(NAMES, background=2)


def written(source: Source, format_: str, out: Path, **options: object) -> Path:
    """A source in a format."""
    chosen = Options(source.classes, **options)  # type: ignore[arg-type]
    export(FORMATS[format_], source, out, silent_progress(), chosen)
    return out


def painted(values: Label, background: int | None) -> Label:
    """A map as it comes back from a format in which the background is no object."""
    return np.where(values == NOTHING, background, values) if background is not None else values


@pytest.fixture
def hard(tmp_path: Path) -> tuple[Source, dict[str, Label]]:
    return hard_source(tmp_path / "source")


@pytest.mark.parametrize("background", [None, 2])
def test_coco_instances_give_the_label_maps(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path, background: int | None
) -> None:
    source = Source(Classes(NAMES, background), hard[0].images)
    out = written(source, "coco", tmp_path / "out")
    coco = COCO(out / "annotations" / "instances.json")
    assert len(coco.imgs) == len(hard[1])
    for number, image in coco.imgs.items():
        expected = hard[1][Path(image["file_name"]).stem]
        assert (image["height"], image["width"]) == expected.shape
        assert (out / "images" / image["file_name"]).is_file()
        rebuilt = np.full(expected.shape, NOTHING, dtype=np.int32)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=number)):
            mask = coco.annToMask(annotation).astype(bool)
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
            rebuilt[mask] = annotation["category_id"] - 1
        assert (painted(rebuilt, background) == painted(expected, background)).all()
    names = {index + 1: name for index, name in enumerate(NAMES) if index != background}
    assert {entry["id"]: entry["name"] for entry in coco.cats.values()} == names


def test_coco_panoptic_holds_what_panopticapi_checks(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path
) -> None:
    out = written(hard[0], "coco", tmp_path / "out", stuff=frozenset({2}))
    record = json.loads((out / "annotations" / "panoptic.json").read_text(encoding="utf-8"))
    categories = {entry["id"]: entry for entry in record["categories"]}
    assert [entry["isthing"] for entry in categories.values()] == [1, 1, 0, 1]
    assert len({tuple(entry["color"]) for entry in categories.values()}) == len(NAMES)
    images = {image["id"]: image for image in record["images"]}
    assert len(record["annotations"]) == len(images) == len(hard[1])
    seen: set[int] = set()
    for annotation in record["annotations"]:
        picture = np.asarray(Image.open(out / "annotations/panoptic" / annotation["file_name"]))
        ids = picture.astype(np.uint32) @ np.array([1, 256, 256**2], dtype=np.uint32)
        image = images[annotation["image_id"]]
        assert ids.shape == (image["height"], image["width"])
        assert annotation["file_name"] == Path(image["file_name"]).stem + ".png"
        # Its evaluation refuses a segment in the PNG alone, one in the JSON alone (0 is void), and
        # an unknown category; it takes areas from the JSON.
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids).tolist()) - {0} == set(segments)
        assert not seen & set(segments)
        seen |= set(segments)
        label = np.full(ids.shape, NOTHING, dtype=np.int32)
        for number, segment in segments.items():
            here = ids == number
            rows, columns = np.nonzero(here)
            x, y = columns.min(), rows.min()
            assert segment["area"] == here.sum()
            assert segment["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]
            assert segment["iscrowd"] == 0
            label[here] = categories[segment["category_id"]]["id"] - 1
        assert (label == hard[1][Path(image["file_name"]).stem]).all()


@pytest.mark.parametrize("background", [None, 2])
def test_yolo_polygons_fill_the_label_maps(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path, background: int | None
) -> None:
    source = Source(Classes(NAMES, background), hard[0].images)
    out = written(source, "yolo-seg", tmp_path / "out")
    names = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))["names"]
    assert list(names) == list(range(len(names)))
    assert (out / "labels" / "train" / "nothing.txt").read_text(encoding="utf-8") == ""
    for name, expected in hard[1].items():
        height, width = expected.shape
        rebuilt = np.full(expected.shape, NOTHING, dtype=np.int32)
        for line in (out / "labels" / "train" / f"{name}.txt").read_text().splitlines():
            number, *numbers = line.split()
            points = np.array(numbers, dtype=np.float32).reshape(-1, 2)
            assert len(points) >= 3 and points.min() >= 0 and points.max() <= 1
            filled = np.zeros(expected.shape, dtype=np.uint8)
            cv2.fillPoly(filled, [(points * (width, height)).astype(np.int32)], color=1)
            rebuilt[filled > 0] = NAMES.index(names[int(number)])
        assert (painted(rebuilt, background) == painted(expected, background)).all()


def voc_map(path: Path, classes: Classes) -> Label:
    """A class map of VOC in the source's indices."""
    values = np.asarray(Image.open(path)).astype(np.int32)
    void = values == (65535 if values.max() > 255 or len(classes.names) > 254 else 255)
    table = np.full(values.max() + 1, NOTHING)
    for value, index in enumerate(classes.objects, start=1):
        table[value : value + 1] = index
    if classes.background is not None:
        table[0] = classes.background
    return np.where(void, NOTHING, table[values]).astype(np.int32)


@pytest.mark.parametrize("classes", [Classes(NAMES), GROUND])
def test_voc_has_the_label_maps_and_an_object_an_island(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path, classes: Classes
) -> None:
    out = written(Source(classes, hard[0].images), "voc", tmp_path / "out")
    ids = (out / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    assert ids == sorted(hard[1])
    for name, expected in hard[1].items():
        path = out / "SegmentationClass" / f"{name}.png"
        assert Image.open(path).mode == "P"
        assert (voc_map(path, classes) == expected).all()
        objects = np.asarray(Image.open(out / "SegmentationObject" / f"{name}.png"))
        assert ((objects == 255) == (expected == NOTHING)).all()
    # VOC's first colours, as its development kit prints them.
    palette = Image.open(out / "SegmentationClass" / "hard.png").getpalette()
    assert palette is not None
    assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert palette[-3:] == [224, 224, 192]


def cvat_map(colours: npt.NDArray[np.uint8], labelmap: str, classes: Classes) -> Label:
    """A class map of CVAT in the source's indices."""
    label = np.full(colours.shape[:2], -2, dtype=np.int32)
    for line in labelmap.splitlines()[1:]:
        name, colour, parts, actions = line.split(":")
        here = (colours == np.array(colour.split(","), dtype=np.uint8)).all(axis=-1)
        assert parts == actions == ""
        label[here] = classes.names.index(name) if name in classes.names else NOTHING
    assert (label > -2).all()
    return label


@pytest.mark.parametrize("classes", [Classes(NAMES), GROUND])
def test_cvat_has_the_label_maps_as_colours(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path, classes: Classes
) -> None:
    out = written(Source(classes, hard[0].images), "cvat", tmp_path / "out")
    with zipfile.ZipFile(out / "annotations.zip") as archive:
        assert archive.read("ImageSets/Segmentation/default.txt").decode().split() == sorted(
            hard[1]
        )
        labelmap = archive.read("labelmap.txt").decode()
        for name, expected in hard[1].items():
            with archive.open(f"SegmentationClass/{name}.png") as file:
                colours = np.asarray(Image.open(file))
            assert (cvat_map(colours, labelmap, classes) == expected).all()
    labels = json.loads((out / "labels.json").read_text(encoding="utf-8"))
    assert [label["name"] for label in labels] == [NAMES[index] for index in classes.objects]


def test_mmseg_has_the_label_maps_and_pictures_of_one_extension(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path
) -> None:
    out = written(hard[0], "mmseg", tmp_path / "out")
    config = runpy.run_path(str(out / "dataset.py"))["dataset"]
    assert config["metainfo"]["classes"] == NAMES
    folder = out / config["data_prefix"]["img_path"]
    # As its data sets list them: every picture with the extension, its map by the rest of the name.
    pictures = sorted(folder.glob(f"*{config['img_suffix']}"))
    assert len(pictures) == len(list(folder.iterdir())) == len(hard[1])
    for picture in pictures:
        name = picture.name.removesuffix(config["img_suffix"])
        path = out / config["data_prefix"]["seg_map_path"] / f"{name}{config['seg_map_suffix']}"
        values = np.asarray(Image.open(path)).astype(np.int32)
        values[values == config["ignore_index"]] = NOTHING
        assert (values == hard[1][name]).all()


def test_more_than_255_classes_are_16_bits(tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(300)]
    label = np.arange(300, dtype=np.int32).reshape(15, 20)
    label[0, :3] = NOTHING
    source = write_labels(tmp_path / "source", {"many.jpg": label}, names)
    for format_, file in (
        ("mmseg", "annotations/train/many.png"),
        ("hf", "train/labels/many.png"),
    ):
        picture = Image.open(written(source, format_, tmp_path / format_) / file)
        values = np.asarray(picture).astype(np.int32)
        assert picture.mode == "I;16"
        assert (np.where(values == 65535, NOTHING, values) == label).all()
    out = written(source, "voc", tmp_path / "voc")
    assert (voc_map(out / "SegmentationClass" / "many.png", source.classes) == label).all()
    with zipfile.ZipFile(written(source, "cvat", tmp_path / "cvat") / "annotations.zip") as archive:
        colours = np.asarray(Image.open(archive.open("SegmentationClass/many.png")))
        labelmap = archive.read("labelmap.txt").decode()
    assert (cvat_map(colours, labelmap, source.classes) == label).all()


def test_every_index_has_a_colour_of_its_own() -> None:
    assert len(np.unique(voc_colours(5000), axis=0)) == 5000


def test_a_picture_on_its_side_is_written_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (30, 20), "white")
    picture.paste("black", (0, 0, 10, 20))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    source = write_labels(tmp_path / "source", {"a.jpg": np.zeros((30, 20), dtype=np.int32)})
    picture.save(tmp_path / "source" / "images" / "a.jpg", exif=exif)
    out = written(source, "yolo-seg", tmp_path / "out", link=True)
    with Image.open(out / "images" / "train" / "a.jpg") as upright:
        assert upright.size == (20, 30)
        assert upright.getexif().get(0x0112, 1) == 1
        assert np.asarray(upright.convert("L"))[:8].max() < 40


def test_links_point_to_the_pictures(hard: tuple[Source, dict[str, Label]], tmp_path: Path) -> None:
    out = written(hard[0], "voc", tmp_path / "out", link=True)
    picture = out / "JPEGImages" / "hard.jpg"
    assert picture.is_symlink()
    assert picture.resolve() == (tmp_path / "source" / "images" / "hard.jpg").resolve()


def test_nothing_is_written_over_or_by_halves(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something already"):
        written(hard[0], "coco", out)
    (tmp_path / "source" / "labels" / "whole.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"whole\.png is broken"):
        written(hard[0], "coco", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_a_label_map_of_another_picture_or_vocabulary_is_refused(tmp_path: Path) -> None:
    label = np.zeros((20, 30), dtype=np.int32)
    source = write_labels(tmp_path / "source", {"a.jpg": label})
    path = tmp_path / "source" / "labels" / "a.png"
    Image.fromarray(np.full((20, 30), 7, dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match="holds the value 7, but there are 4 classes"):
        written(source, "hf", tmp_path / "out")
    Image.fromarray(np.zeros((30, 20), dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match="20 x 30 px, its picture"):
        written(source, "hf", tmp_path / "out")


def run(*words: object) -> int:
    """The command line; its exit code."""
    return fmbseg([str(word) for word in words])


def test_the_command_exports_label_maps(
    hard: tuple[Source, dict[str, Label]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("\n".join(NAMES), encoding="utf-8")
    source = tmp_path / "source"
    given = ("--images", source / "images", "--vocabulary", words)
    out = tmp_path / "out"
    assert run("export", "coco", source / "labels", "--out", out, *given, "--stuff", "sky") == 0
    assert "4 pictures, 4 classes as coco" in capsys.readouterr().out
    for wrong, said in (
        (("export", "png", source, "--out", out), "use one of coco, yolo-seg"),
        (("export", "coco", source, "--out", out), "give --images FOLDER and --vocabulary"),
        (("export", "coco", tmp_path / "no", "--out", out), "is no folder"),
        (("export", "coco", source, "--out", out, *given), "holds something already"),
        (
            ("export", "coco", source, "--out", tmp_path / "o", *given, "--stuff", "sea"),
            "'sea' is none of the 4 classes",
        ),
    ):
        assert run(*wrong) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_the_command_exports_the_out_of_the_stage_label(
    labelled: object, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(coco.parent)
    where = ("--set", f"data.root={coco}", "--set", "data.split=val2017")
    out = tmp_path / "out"
    assert run("export", "coco", "data/pseudo/label", "--out", out, *where) == 0
    record = COCO(out / "annotations" / "instances.json")
    assert len(record.imgs) == 5
    scores = [annotation["score"] for annotation in record.anns.values()]
    assert scores and all(-1 <= score <= 1 for score in scores)
    for number, image in record.imgs.items():
        name = Path(image["file_name"]).stem
        expected = np.asarray(Image.open(f"data/pseudo/label/labels/{name}.png"))
        rebuilt = np.full(expected.shape, UNLABELLED)
        for annotation in record.loadAnns(record.getAnnIds(imgIds=number)):
            rebuilt[record.annToMask(annotation) > 0] = annotation["category_id"] - 1
        assert (rebuilt == expected).all()
