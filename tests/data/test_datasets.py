from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from fmbseg.data import load_dataset
from fmbseg.data.datasets import SegmentationDataset
from fmbseg.data.images import read_annotation
from fmbseg.data.layouts import LAYOUTS
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.errors import DataError
from fmbseg.pseudo.labels import load_label, save_label


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
    name: str, folder: str, split: str, samples: Path, tmp_path: Path
) -> None:
    path = tmp_path / "label.png"
    for sample in load_dataset(name, samples / folder, split):
        label = sample.label
        assert label is not None
        save_label(path, label.astype(np.uint8))
        for again in (load_label(path), read_annotation(path)):
            np.testing.assert_array_equal(again, label)


def test_slices_are_data_sets(samples: Path) -> None:
    dataset = load_dataset("camvid", samples / "camvid", "val")
    assert [sample.image_id for sample in dataset[:3]] == [
        identity for identity, _ in dataset.image_files[:3]
    ]
    assert dataset[:3].vocabulary == dataset.vocabulary
    assert dataset[-1].image_id == dataset.image_files[-1][0]
    with pytest.raises(IndexError):
        _ = dataset[len(dataset)]


def voc_root(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    write_text(root / "ImageSets/Segmentation/val.txt", "a\nb\n")
    for stem in "ab":
        write_image(root / f"JPEGImages/{stem}.jpg", (3, 1))
        write_values(root / f"SegmentationClass/{stem}.png", [[0, 20, 255]])
    return root


def test_images_are_listed_without_annotations(tmp_path: Path) -> None:
    root = voc_root(tmp_path)
    before = load_dataset("voc21", root, "val").image_files
    for file in (root / "SegmentationClass").iterdir():
        file.unlink()
    (root / "SegmentationClass").rmdir()
    assert load_dataset("voc21", root, "val").image_files == before
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
    assert sorted(LAYOUTS) == sorted([*objects, *scenes, "folder"])
