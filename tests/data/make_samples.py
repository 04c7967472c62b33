"""Makes `samples/`: small files in the benchmarks' own encodings, for a clone without them.

    python -m tests.data.make_samples

Written from what each benchmark publishes about its files, with Pillow, pycocotools and numpy.
Nothing of fmbseg is used, so that its decoding is held against something else: what was drawn is
counted by name into `histograms.json` before it is encoded. The lists of names (`class_lists.json`,
`labels_raw182.json`, `objectInfo150.txt`, `camvid/classes.json`) are the published ones; they are
read here and not made.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from tests.data.drawing import Sample, count, drawn, encoded, picture, scored

SAMPLES = Path(__file__).parent / "samples"

# Cityscapes' labels in the order of their ids; the licence plate's -1 is written as 255.
_LABELS = (
    "unlabeled|ego vehicle|rectification border|out of roi|static|dynamic|ground|road|sidewalk|"
    "parking|rail track|building|wall|fence|guard rail|bridge|tunnel|pole|polegroup|traffic light|"
    "traffic sign|vegetation|terrain|sky|person|rider|car|truck|bus|caravan|trailer|train|"
    "motorcycle|bicycle"
)
CITYSCAPES_IDS = {name: number for number, name in enumerate(_LABELS.split("|"))}
CITYSCAPES_IDS["license plate"] = 255
# Some of PASCAL in Detail's categories.
DETAIL_IDS = {"aeroplane": 2, "bicycle": 23, "person": 284, "sky": 360, "wall": 440, "wood": 458}
ORIENTATION = 0x0112  # EXIF tag; 6: to be turned by 90 degrees clockwise


def read_json(name: str) -> Any:
    return json.loads((SAMPLES / name).read_text(encoding="utf-8"))


def classes(key: str) -> list[str]:
    found: list[str] = read_json("class_lists.json")[key]["classes"]
    return found


def save(path: Path, image: Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        options = {"quality": 85, **options}
    image.save(path, **options)


def save_values(path: Path, values: NDArray[Any]) -> None:
    save(path, Image.fromarray(values), optimize=True)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def voc_palette() -> list[int]:
    """VOC's colour of each index: its bits, dealt out to red, green and blue from the top."""
    palette = []
    for index in range(256):
        colour = [0, 0, 0]
        for bit in range(8):
            colour[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        palette += colour
    return palette


def make_voc(root: Path) -> dict[str, Any]:
    """Palette PNGs: 0 background, 1 to 20 classes, and 255 along the objects' outlines."""
    names = classes("PascalVOCDataset")
    sample = drawn("2011_000003", (75, 50), ["person", "bottle", "tvmonitor"])
    whole = sample.names.copy()
    whole[whole == ""] = "background"
    for axis in (0, 1):
        edge = whole != np.roll(whole, 1, axis)
        edge[(0, slice(None)) if axis == 0 else (slice(None), 0)] = False
        sample.names[edge | np.roll(edge, -1, axis)] = "void"
    folder = root / "voc2012" / "VOCdevkit" / "VOC2012"
    values = {name: index for index, name in enumerate(names)} | {"void": 255}
    label = Image.fromarray(encoded(sample.names, values, 0))
    label.putpalette(voc_palette())
    save(folder / "SegmentationClass" / f"{sample.stem}.png", label)
    save(folder / "JPEGImages" / f"{sample.stem}.jpg", sample.picture)
    write_text(folder / "ImageSets" / "Segmentation" / "val.txt", f"{sample.stem}\n")
    objects = scored(names[1:])
    return {
        "voc20 val": count([sample], objects),
        "voc21 val": count(
            [sample], lambda name: {"": "background", "void": "ignored"}.get(name, name)
        ),
    }


def make_context(root: Path) -> dict[str, Any]:
    """PASCAL in Detail's JSON file: masks in run lengths, later ones over earlier ones."""
    folder = root / "voc2010" / "VOCdevkit" / "VOC2010"
    phases = {
        "val": [
            drawn("2008_000002", (63, 41), ["sky", "wall", "person"]),
            drawn("2008_000003", (40, 57), ["wood", "bicycle"]),
        ],
        "train": [drawn("2008_000015", (52, 39), ["sky", "aeroplane"])],
    }
    images, masks = [], []
    for phase, samples in phases.items():
        for sample in samples:
            number = int(sample.stem.replace("_", ""))
            file = f"{sample.stem}.jpg"
            save(folder / "JPEGImages" / file, sample.picture)
            height, width = sample.names.shape
            images.append(
                {"image_id": number, "file_name": file, "phase": phase}
                | {"height": height, "width": width}
            )
            for name in sorted(set(sample.names.ravel()) - {""}):
                runs = coco_mask.encode(np.asfortranarray(sample.names == name, np.uint8))
                segmentation = {"size": runs["size"], "counts": runs["counts"].decode()}
                masks.append(
                    {"image_id": number, "category_id": DETAIL_IDS[name]}
                    | {"segmentation": segmentation}
                )
    content = {"images": images, "annos_segmentation": masks, "categories": []}
    write_text(folder / "trainval_merged.json", json.dumps(content) + "\n")
    return {
        f"{key} {phase}": count(samples, scored(list(DETAIL_IDS), other))
        for phase, samples in phases.items()
        for key, other in (("context59", "ignored"), ("context60", "background"))
    }


def make_coco(root: Path) -> dict[str, Any]:
    """COCO-Stuff 164k's pixel maps: category id - 1, 255 where nothing is labelled."""
    folder = root / "coco_stuff164k"
    raw = read_json("coco_stuff164k/labels_raw182.json")
    values = {name: int(value) for value, name in raw.items()}
    splits = {
        "val2017": [
            drawn("000000000139", (64, 43), ["wall-other", "tv", "chair", "person"]),
            drawn("000000000785", (43, 64), ["snow", "person", "skis"]),
            drawn("000000001268", (64, 48), ["sea", "boat", "umbrella", "clouds"]),
        ],
        "train2017": [
            drawn(f"{number:012d}", size, names)
            for number, size, names in (
                (17914, (64, 48), ["ceiling-other", "laptop", "keyboard", "toothbrush"]),
                (29286, (61, 37), ["grass", "horse", "tree", "wood"]),
                (138805, (48, 64), ["floor-tile", "oven", "banner"]),
                (184101, (64, 45), ["road", "truck", "traffic light"]),
                (197384, (50, 50), ["playingfield", "tennis racket", "sports ball"]),
            )
        ],
    }
    for split, samples in splits.items():
        for sample in samples:
            place = folder / "images" / split / f"{sample.stem}.jpg"
            label = encoded(sample.names, values, 255)
            if sample.stem == "000000138805":  # lies on its side in the file
                exif = Image.Exif()
                exif[ORIENTATION] = 6
                save(place, sample.picture.transpose(Image.Transpose.ROTATE_90), exif=exif)
            else:
                save(place, sample.picture)
            save_values(folder / "annotations" / split / f"{sample.stem}.png", label)
    things = read_json("class_lists.json")["COCOObject80"]["classes"]
    return {
        f"{key} {split}": count(samples, meaning)
        for split, samples in splits.items()
        for key, meaning in (
            ("coco_stuff", scored(classes("COCOStuffDataset"))),
            ("coco_object", scored(things, "background")),
        )
    }


def make_cityscapes(root: Path) -> dict[str, Any]:
    """Polygons by name, and the pictures that Cityscapes' own scripts make of them."""
    lists = {
        "cityscapes train": [
            "aachen_000000_000019",
            "aachen_000001_000019",
            "aachen_000002_000019",
        ],
        "cityscapes_small val": ["frankfurt_000000_000294"],
    }
    labels = ("road", "sky", "building", "vegetation", "parking", "car", "license plate", "rider")
    found = {}
    for key, stems in lists.items():
        folder, split = key.split()
        samples = [
            city(root / folder, split, stem, size, labels)
            for stem, size in zip(stems, ((64, 32), (64, 32), (72, 36)), strict=False)
        ]
        found[key] = count(samples, scored(classes("CityscapesDataset")))
    return found


def city(root: Path, split: str, stem: str, size: tuple[int, int], labels: Sequence[str]) -> Sample:
    """One image with its polygons, label ids, train ids, instance ids and colours."""
    rng = np.random.default_rng(zlib.crc32(stem.encode()))
    width, height = size
    canvas = Image.new("L", size, CITYSCAPES_IDS["out of roi"])
    polygons = []
    for label in labels:
        x, y = int(rng.integers(0, width - 20)), int(rng.integers(0, height - 10))
        right, low = x + int(rng.integers(14, 60)), y + int(rng.integers(8, 24))
        corners = [(x, y), (right, y + 3), (right - 5, low), (x + 2, low)]
        ImageDraw.Draw(canvas).polygon(corners, fill=CITYSCAPES_IDS[label])
        polygons.append({"label": label, "polygon": [list(corner) for corner in corners]})
    ids = np.asarray(canvas)
    by_id = {value: name for name, value in CITYSCAPES_IDS.items()}
    names = np.vectorize(by_id.__getitem__, otypes=[object])(ids)
    sample = Sample(stem, names, picture(names, rng))
    town = stem.partition("_")[0]
    save(root / "leftImg8bit" / split / town / f"{stem}_leftImg8bit.png", sample.picture)
    place = root / "gtFine" / split / town
    content = {"imgHeight": height, "imgWidth": width, "objects": polygons}
    write_text(place / f"{stem}_gtFine_polygons.json", json.dumps(content) + "\n")
    save_values(place / f"{stem}_gtFine_labelIds.png", ids)
    train_ids = {name: index for index, name in enumerate(classes("CityscapesDataset"))}
    save_values(place / f"{stem}_gtFine_labelTrainIds.png", encoded(names, train_ids, 255))
    instances = ids.astype(np.uint16)
    instances[names == "car"] = CITYSCAPES_IDS["car"] * 1000
    save_values(place / f"{stem}_gtFine_instanceIds.png", instances)
    return sample


def make_ade(root: Path) -> dict[str, Any]:
    """0 is none of the classes, 1 to 150 are."""
    folder = root / "ade20k" / "ADEChallengeData2016"
    lines = (SAMPLES / "ade20k/ADEChallengeData2016/objectInfo150.txt").read_text().splitlines()
    names = [line.split("\t")[1].split(",")[0] for line in lines[1:]]
    sample = drawn("ADE_val_00000001", (68, 51), ["wall", "sky", "flag", "minibike"])
    values = {name: index for index, name in enumerate(names, start=1)}
    save(folder / "images" / "validation" / f"{sample.stem}.jpg", sample.picture)
    label = encoded(sample.names, values, 0)
    save_values(folder / "annotations" / "validation" / f"{sample.stem}.png", label)
    return {"ade20k validation": count([sample], scored(names))}


def make_camvid(root: Path) -> dict[str, Any]:
    """0 to 10 are classes, 11 is void."""
    folder = root / "camvid"
    names = read_json("camvid/classes.json")
    values = {name: index for index, name in enumerate(names)}
    found = {}
    for split, stems in (
        ("train", ("0001TP_006690", "0001TP_006750")),
        ("val", ("0016E5_07959", "0016E5_07961", "0016E5_07963")),
    ):
        samples = [drawn(stem, (48, 36), [*names[:4], "Car", "Bicyclist"]) for stem in stems]
        for sample in samples:
            save(folder / split / f"{sample.stem}.png", sample.picture)
            label = encoded(sample.names, values, 11)
            save_values(folder / f"{split}annot" / f"{sample.stem}.png", label)
        listed = [f"{split}/{stem}.png {split}annot/{stem}.png\n" for stem in stems]
        write_text(folder / f"{split}.txt", "".join(listed))
        found[f"camvid {split}"] = count(samples, scored(names))
    return found


def make_photos(root: Path) -> None:
    """One picture as a camera, a scanner and a print shop would store it, and in 16 bits."""
    rng = np.random.default_rng(0)
    scene = drawn("photo", (160, 107), ["sky", "hill", "road", "dog", "tree", "car"]).picture
    noise = rng.normal(0, 3, (107, 160, 1))
    photo = Image.fromarray(np.clip(np.asarray(scene) + noise, 0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    save(root / "photos" / "camera.jpg", photo, quality=90)
    save(
        root / "photos" / "on_its_side.jpg",
        photo.transpose(Image.Transpose.ROTATE_90),
        quality=90,
        exif=exif,
    )
    save(root / "photos" / "print.jpg", photo.convert("CMYK"), quality=90)
    grey = np.asarray(photo.convert("L").resize((40, 27)), dtype=np.uint16)
    save_values(root / "deep" / "sixteen_bits.png", grey * 257)


def make_samples(root: Path) -> None:
    makers = (make_voc, make_context, make_coco, make_cityscapes, make_ade, make_camvid)
    histograms = {key: entry for make in makers for key, entry in make(root).items()}
    make_photos(root)
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(histograms[key])}" for key in histograms)
    write_text(root / "histograms.json", f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    make_samples(SAMPLES)
