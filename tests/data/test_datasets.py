from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from fmbseg.data import load_dataset
from fmbseg.data.datasets import SegmentationDataset, dataset_names, image_files
from fmbseg.data.images import read_annotation
from fmbseg.data.layouts import LAYOUTS
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.errors import DataError
from fmbseg.pseudo.labels import load_label, save_label

IGNORED = "ignored"
# Cityscapes' own id of every evaluated class, written out by name.
CITYSCAPES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def raw_histogram(path: Path) -> Counter[int]:
    values = np.asarray(Image.open(path))
    return Counter(dict(enumerate(np.bincount(values.ravel(), minlength=256).tolist())))


def by_name(raw: Counter[int], names: Mapping[int, str]) -> Counter[str]:
    """A raw file's pixels a class name; values without a name are ignored ones."""
    pixels: Counter[str] = Counter()
    for value, count in raw.items():
        pixels[names.get(value, IGNORED)] += count
    return +pixels


def decoded(dataset: SegmentationDataset, number: int, names: list[str]) -> Counter[str]:
    """A decoded label's pixels a class name, with the published names in index order."""
    sample = dataset[number]
    label = sample.label
    assert label is not None
    assert label.dtype == np.int64
    assert label.shape == (sample.image.height, sample.image.width)
    assert len(names) == len(dataset.vocabulary)
    pixels: Counter[str] = Counter()
    for value, count in zip(*np.unique(label, return_counts=True), strict=True):
        pixels[IGNORED if value == 255 else names[value]] += int(count)
    return pixels


def published(realdata: Path, key: str) -> list[str]:
    lists = json.loads((realdata / "class_lists.json").read_text())
    names: list[str] = lists[key]["classes"]
    return names


# Folder of a real set and the key of its published names; "background" or nothing goes before.
REAL = {
    "voc21 val": ("voc2012/VOCdevkit/VOC2012", "PascalVOCDataset", ()),
    "voc20 val": ("voc2012/VOCdevkit/VOC2012", "PascalVOCDataset", ()),
    "coco_stuff train2017": ("coco_stuff164k", "COCOStuffDataset", ()),
    "coco_stuff val2017": ("coco_stuff164k", "COCOStuffDataset", ()),
    "coco_object train2017": ("coco_stuff164k", "COCOObject80", ("background",)),
    "coco_object val2017": ("coco_stuff164k", "COCOObject80", ("background",)),
    "cityscapes train": ("cityscapes", "CityscapesDataset", ()),
    "cityscapes_small val": ("cityscapes_small", "CityscapesDataset", ()),
    "ade20k validation": ("ade20k/ADEChallengeData2016", None, ()),
    "camvid train": ("camvid", None, ()),
    "camvid val": ("camvid", None, ()),
}


@pytest.mark.parametrize("key", REAL)
def test_histograms_are_those_written_down_from_the_raw_files(key: str, realdata: Path) -> None:
    """`real_histograms.json` was counted from the PNGs and the sets' own lists of names alone."""
    written = json.loads((Path(__file__).parent / "real_histograms.json").read_text())[key]
    name, split = key.replace("_small", "").split()
    folder, published_as, before = REAL[key]
    root = realdata / folder
    if published_as is not None:
        names = [*before, *published(realdata, published_as)]
        names = names[1:] if name == "voc20" else names
    elif name == "camvid":
        names = json.loads((root / "classes.json").read_text())
    else:
        lines = (root / "objectInfo150.txt").read_text().splitlines()[1:]
        names = [line.split("\t")[-1].split(",")[0].strip() for line in lines]
    dataset = load_dataset(name, root, split)
    assert len(dataset) == written["files"]
    total: Counter[str] = Counter()
    for sample in dataset:
        values, counts = np.unique(np.asarray(sample.label), return_counts=True)
        for value, count in zip(values, counts.tolist(), strict=True):
            total[IGNORED if value == 255 else names[value]] += count
    assert dict(total) == written["pixels"]


def test_voc_void_is_ignored_and_palette_indices_are_classes(realdata: Path) -> None:
    root = realdata / "voc2012" / "VOCdevkit" / "VOC2012"
    names = published(realdata, "PascalVOCDataset")
    raw = raw_histogram(root / "SegmentationClass" / "2011_000003.png")
    assert raw[255] > 0
    assert decoded(load_dataset("voc21", root, "val"), 0, names) == by_name(
        raw, dict(enumerate(names))
    )
    # The 20-class benchmark does not score background pixels.
    classes = {value: name for value, name in enumerate(names) if value > 0}
    without = decoded(load_dataset("voc20", root), 0, names[1:])
    assert without == by_name(raw, classes)
    assert without[IGNORED] == raw[0] + raw[255]


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_stuff_pixels_are_category_ids_minus_one(split: str, realdata: Path) -> None:
    root = realdata / "coco_stuff164k"
    raw_names = json.loads((root / "labels_raw182.json").read_text())
    names = published(realdata, "COCOStuffDataset")
    # Raw names and published names are the same words; raw ones without a class never occur.
    meaning = {int(value): name for value, name in raw_names.items()}
    dataset = load_dataset("coco_stuff", root, split)
    assert len(dataset) == len(list((root / "images" / split).glob("*.jpg")))
    for number, sample in enumerate(dataset):
        raw = raw_histogram(root / "annotations" / split / f"{sample.image_id}.png")
        expected = by_name(raw, meaning)
        assert set(expected) <= {*names, IGNORED}
        assert expected[IGNORED] == raw[255]
        assert decoded(dataset, number, names) == expected


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_object_has_everything_else_as_background(split: str, realdata: Path) -> None:
    root = realdata / "coco_stuff164k"
    entry = json.loads((realdata / "class_lists.json").read_text())["COCOObject80"]
    meaning = {
        category - 1: name
        for category, name in zip(entry["coco_category_ids"], entry["classes"], strict=True)
    }
    dataset = load_dataset("coco_object", root, split)
    for number, sample in enumerate(dataset):
        expected = by_name(
            raw_histogram(root / "annotations" / split / f"{sample.image_id}.png"), meaning
        )
        background = expected.pop(IGNORED, 0)
        if background:
            expected["background"] = background
        assert decoded(dataset, number, ["background", *entry["classes"]]) == expected


def test_cityscapes_label_ids(realdata: Path) -> None:
    root = realdata / "cityscapes"
    names = published(realdata, "CityscapesDataset")
    assert list(CITYSCAPES) == names
    meaning = {value: name for name, value in CITYSCAPES.items()}
    dataset = load_dataset("cityscapes", root, "train")
    assert len(dataset) == 3
    for number, sample in enumerate(dataset):
        file = sample.image_path.name.replace("leftImg8bit", "gtFine_labelIds")
        raw = raw_histogram(root / "gtFine" / "train" / "aachen" / file)
        assert decoded(dataset, number, names) == by_name(raw, meaning)


def test_cityscapes_train_ids_are_the_same_truth(realdata: Path, tmp_path: Path) -> None:
    real = realdata / "cityscapes_small"
    image = next((real / "leftImg8bit" / "val" / "frankfurt").glob("*.png"))
    train_ids = next((real / "gtFine" / "val" / "frankfurt").glob("*_gtFine_labelTrainIds.png"))
    for source in (image, train_ids):
        target = tmp_path / source.relative_to(real)
        target.parent.mkdir(parents=True)
        target.write_bytes(source.read_bytes())
    from_ids = load_dataset("cityscapes", real)[0].label
    from_train_ids = load_dataset("cityscapes", tmp_path)[0].label
    assert from_ids is not None and from_train_ids is not None
    np.testing.assert_array_equal(from_train_ids, np.asarray(Image.open(train_ids)))
    # These two small files were scaled down separately: they differ in boundary pixels alone.
    assert (from_ids == from_train_ids).mean() > 0.995
    assert set(np.unique(from_ids)) == set(np.unique(from_train_ids))


def test_ade20k_has_no_class_zero(realdata: Path) -> None:
    root = realdata / "ade20k" / "ADEChallengeData2016"
    lines = (root / "objectInfo150.txt").read_text().splitlines()[1:]
    words = {int(line.split()[0]): line.split("\t")[-1].split(",") for line in lines}
    dataset = load_dataset("ade20k", root)
    raw = raw_histogram(root / "annotations" / "validation" / "ADE_val_00000001.png")
    names = [words[value][0].strip() for value in range(1, 151)]
    assert decoded(dataset, 0, names) == by_name(raw, dict(enumerate(names, start=1)))
    # The names are among the benchmark's own words for each class.
    for value, name in enumerate(dataset.vocabulary.names, start=1):
        own = [word.replace(" ", "") for word in words[value]]
        assert name.replace(" ", "") in own


@pytest.mark.parametrize(("split", "count"), [("train", 184), ("val", 50)])
def test_camvid_id_11_is_void(split: str, count: int, realdata: Path) -> None:
    root = realdata / "camvid"
    names = json.loads((root / "classes.json").read_text())
    dataset = load_dataset("camvid", root, split)
    assert len(dataset) == count
    for number in range(count):
        raw = raw_histogram(root / f"{split}annot" / f"{dataset[number].image_id}.png")
        expected = by_name(raw, dict(enumerate(names)))
        assert expected[IGNORED] == raw[11]
        assert decoded(dataset, number, names) == expected


def write_image(path: Path, size: tuple[int, int] = (6, 4), fill: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (fill, 0, 0)).save(path)


def write_values(path: Path, rows: list[list[int]]) -> npt.NDArray[np.uint8]:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.array(rows, dtype=np.uint8)
    Image.fromarray(values).save(path)
    return values


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def values_of(dataset: SegmentationDataset) -> list[list[int]]:
    label = dataset[0].label
    assert label is not None
    rows: list[list[int]] = label.tolist()
    return rows


def test_context_scores_background_only_in_its_60_class_form(tmp_path: Path) -> None:
    write_text(tmp_path / "ImageSets/SegmentationContext/val.txt", "2008_000002\n")
    write_image(tmp_path / "JPEGImages/2008_000002.jpg", (3, 1))
    write_values(tmp_path / "SegmentationClassContext/2008_000002.png", [[0, 1, 59]])
    assert values_of(load_dataset("context60", tmp_path)) == [[0, 1, 59]]
    assert values_of(load_dataset("context59", tmp_path)) == [[255, 0, 58]]


def test_coco_train_ids_are_accepted(tmp_path: Path) -> None:
    write_image(tmp_path / "images/val2017/000000000139.jpg", (4, 1))
    folder = tmp_path / "annotations/val2017"
    write_values(folder / "000000000139_labelTrainIds.png", [[0, 79, 170, 255]])
    assert values_of(load_dataset("coco_stuff", tmp_path)) == [[0, 79, 170, 255]]
    assert values_of(load_dataset("coco_object", tmp_path)) == [[1, 80, 0, 0]]
    (folder / "000000000139_labelTrainIds.png").unlink()
    write_values(folder / "000000000139_instanceTrainIds.png", [[0, 1, 80, 255]])
    assert values_of(load_dataset("coco_object", tmp_path)) == [[0, 1, 80, 0]]


@pytest.mark.parametrize(
    "line",
    [
        "train/0001TP_006690.png trainannot/0001TP_006690.png",
        "/SegNet/CamVid/train/0001TP_006690.png /SegNet/CamVid/trainannot/0001TP_006690.png",
        "0001TP_006690",
        "0001TP_006690.png",
    ],
)
def test_camvid_lists_in_all_their_forms(line: str, tmp_path: Path) -> None:
    write_text(tmp_path / "train.txt", f"{line}\n\n")
    write_image(tmp_path / "train/0001TP_006690.png", (3, 1))
    write_values(tmp_path / "trainannot/0001TP_006690.png", [[0, 10, 11]])
    dataset = load_dataset("camvid", tmp_path, "train")
    assert [sample.image_id for sample in dataset] == ["0001TP_006690"]
    assert values_of(dataset) == [[0, 10, 255]]


def test_every_value_is_decoded_or_refused() -> None:
    for name, layout in LAYOUTS.items():
        for annotation in layout.annotations:
            table = annotation.table(5)
            assert table.shape == (256,)
            indices = set(table.tolist()) - {-1, 255}
            assert indices == set(range(len(indices))), name
            if layout.vocabulary is not None:
                assert len(indices) == len(load_vocabulary(layout.vocabulary)), name


def test_folder_of_photos_has_no_truth(tmp_path: Path) -> None:
    write_image(tmp_path / "b.JPG")
    write_image(tmp_path / "trip" / "a.png")
    write_text(tmp_path / "notes.txt", "no picture")
    dataset = load_dataset("folder", tmp_path)
    assert [sample.image_id for sample in dataset] == ["b", "trip__a"]
    assert not dataset.has_labels
    assert dataset[0].label is None
    with pytest.raises(DataError, match=r"labels/b\.png"):
        dataset.require_labels()
    with pytest.raises(DataError, match=r"vocabulary\.yaml does not exist"):
        _ = dataset.vocabulary


@pytest.mark.parametrize("images", ["", "images"])
def test_folder_with_labels_and_vocabulary(images: str, tmp_path: Path) -> None:
    write_image(tmp_path / images / "trip" / "a.jpg", (3, 1))
    write_values(tmp_path / "labels" / "trip" / "a.png", [[0, 1, 255]])
    write_text(tmp_path / "vocabulary.yaml", "classes: [dog, cat]\n")
    dataset = load_dataset("folder", tmp_path, "all")
    assert dataset.has_labels and dataset.vocabulary.names == ("dog", "cat")
    assert [sample.image_id for sample in dataset] == ["trip__a"]
    assert values_of(dataset) == [[0, 1, 255]]
    write_values(tmp_path / "labels" / "trip" / "a.png", [[0, 1, 2]])
    with pytest.raises(DataError, match="holds the value 2, expected class index"):
        _ = dataset[0].label


def test_folder_with_a_plain_class_list(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", (3, 1))
    write_values(tmp_path / "labels" / "a.png", [[0, 1, 255]])
    write_text(tmp_path / "classes.txt", "dog\nhot dog\n")
    dataset = load_dataset("folder", tmp_path)
    assert dataset.vocabulary.names == ("dog", "hot dog")
    assert values_of(dataset) == [[0, 1, 255]]


@pytest.mark.parametrize(
    ("name", "folder", "split"),
    [
        ("voc21", "voc2012/VOCdevkit/VOC2012", "val"),
        ("voc20", "voc2012/VOCdevkit/VOC2012", "val"),
        ("coco_stuff", "coco_stuff164k", "val2017"),
        ("coco_stuff", "coco_stuff164k", "train2017"),
        ("coco_object", "coco_stuff164k", "val2017"),
        ("cityscapes", "cityscapes", "train"),
        ("cityscapes", "cityscapes_small", "val"),
        ("ade20k", "ade20k/ADEChallengeData2016", "validation"),
        ("camvid", "camvid", "val"),
    ],
)
def test_label_maps_come_back_exactly(
    name: str, folder: str, split: str, realdata: Path, tmp_path: Path
) -> None:
    path = tmp_path / "label.png"
    for sample in load_dataset(name, realdata / folder, split):
        label = sample.label
        assert label is not None
        save_label(path, label.astype(np.uint8))
        for again in (load_label(path), read_annotation(path)):
            np.testing.assert_array_equal(again, label)


def test_slices_are_data_sets(realdata: Path) -> None:
    dataset = load_dataset("camvid", realdata / "camvid", "val")
    assert [sample.image_id for sample in dataset[:3]] == [
        identity for identity, _ in dataset.image_files[:3]
    ]
    assert dataset[:3].vocabulary == dataset.vocabulary
    assert dataset[-1].image_id == dataset.image_files[-1][0]
    with pytest.raises(IndexError):
        _ = dataset[50]


def voc_root(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    write_text(root / "ImageSets/Segmentation/val.txt", "a\nb\n")
    for stem in "ab":
        write_image(root / f"JPEGImages/{stem}.jpg", (3, 1))
        write_values(root / f"SegmentationClass/{stem}.png", [[0, 20, 255]])
    return root


def test_images_are_listed_without_annotations(tmp_path: Path) -> None:
    root = voc_root(tmp_path)
    before = image_files("voc21", root, "val")
    for file in (root / "SegmentationClass").iterdir():
        file.unlink()
    (root / "SegmentationClass").rmdir()
    assert image_files("voc21", root, "val") == before
    dataset = load_dataset("voc21", root)
    assert not dataset.has_labels and dataset[1].label is None
    with pytest.raises(DataError, match=r"SegmentationClass/a\.png"):
        dataset.require_labels()


def test_one_missing_annotation_is_an_error(tmp_path: Path) -> None:
    root = voc_root(tmp_path)
    (root / "SegmentationClass/b.png").unlink()
    dataset = load_dataset("voc21", root)
    assert dataset[1].image.size == (3, 1)  # the image alone is still of use
    with pytest.raises(DataError, match=r"b\.jpg has no annotation, expected .*Class/b\.png"):
        _ = dataset[1].label


def test_wrong_annotations_are_named(tmp_path: Path) -> None:
    root = voc_root(tmp_path)
    sample = load_dataset("voc21", root)[0]
    file = root / "SegmentationClass/a.png"
    write_values(file, [[0, 21, 255]])
    with pytest.raises(DataError, match=r"a\.png holds the value 21, expected 0 = background"):
        _ = sample.label
    write_values(file, [[0, 20]])
    with pytest.raises(DataError, match=r"a\.png is 2 x 1 px.*3 x 1 px"):
        _ = sample.label
    write_image(file, (3, 1))
    with pytest.raises(DataError, match="colour picture"):
        _ = sample.label
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match=r"a\.png is broken"):
        _ = sample.label


def test_missing_parts_are_named_with_what_was_expected(tmp_path: Path) -> None:
    root = voc_root(tmp_path)
    cases = [
        (("voc22", root, None), "no data set 'voc22': use one of voc21, voc20"),
        (("voc21", tmp_path / "no", None), "no does not exist, expected the folder VOC2012"),
        (("voc21", root, "test"), r"Segmentation/test\.txt does not exist.*val, train, trainval"),
        (("voc21", tmp_path, "val"), r"found in .*VOC2012: give that"),
        (("coco_stuff", root, "val2017"), "images/val2017 does not exist, expected in the folder"),
        (("folder", root, "val"), "no split 'val'.*use the split 'all'"),
    ]
    for (name, where, split), message in cases:
        with pytest.raises(DataError, match=message) as caught:
            load_dataset(name, where, split)
        assert "\n" not in str(caught.value)
    (root / "JPEGImages/b.jpg").unlink()
    with pytest.raises(DataError, match=r"val\.txt lists b, but .*b\.jpg does not exist"):
        load_dataset("voc21", root)
    write_text(root / "ImageSets/Segmentation/val.txt", "a\na\n")
    with pytest.raises(DataError, match="same id 'a'"):
        load_dataset("voc21", root)
    write_text(root / "ImageSets/Segmentation/val.txt", "\n")
    with pytest.raises(DataError, match=r"no image in split 'val', expected .*<stem>\.jpg"):
        load_dataset("voc21", root)


def test_names_of_the_contract() -> None:
    objects = ["voc21", "voc20", "context59", "context60", "coco_object", "coco_stuff"]
    scenes = ["cityscapes", "ade20k", "camvid"]
    assert sorted(dataset_names()) == sorted([*objects, *scenes, "folder"])
