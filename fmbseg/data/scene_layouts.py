"""Scenes on disk, in the benchmarks' own layouts and label encodings.

Each layout is one record of `SCENE_LAYOUTS`; the adapters of `datasets.py` read what is written
here exactly as they read the real data sets.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.scene_classes import SCENE_CLASSES, THING_CLASSES
from fmbseg.data.scenes import Scene, render_scene, scene_seed
from fmbseg.errors import DataError
from fmbseg.paths import Paths
from fmbseg.progress import Progress, silent_progress
from fmbseg.store import StageReport, StageState, content_key, published_key

SIZES = ((160, 128), (128, 160), (144, 144), (176, 128), (128, 128))  # (width, height) px
UNLABELLED = 255
SOURCES = ("scene_classes.py", "textures.py", "scenes.py", "scene_layouts.py")
Row = dict[str, object]


@dataclass(frozen=True)
class SceneLayout:
    """How one benchmark keeps its images, labels and splits.

    `folder` is the usual name of the data set's root; `image` and `label` are paths below it with
    {split} and {name}; `encode` makes the label picture of a scene; `splits` maps train and val to
    the layout's own words; `split_list` is the text file of a split's names, None where the
    folders say it.
    """

    folder: str
    image: str
    label: str
    name: Callable[[str, int], str]
    encode: Callable[[Scene], Image.Image]
    splits: dict[str, str]
    split_list: str | None
    favoured: tuple[str, ...]  # classes most objects are drawn from; empty: all alike


def _voc_label(scene: Scene) -> Image.Image:
    """PASCAL VOC: palette PNG, 0 background, 1..20, and a band of 255 around every object."""
    table = np.array([c.voc_index or 0 for c in SCENE_CLASSES], np.uint8)
    label = table[scene.label]
    objects = np.where(label > 0, scene.instance, 0).astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    label[cv2.dilate(objects, kernel) != cv2.erode(objects, kernel)] = UNLABELLED
    picture = Image.fromarray(label)
    picture.putpalette(voc_palette().tobytes())
    return picture


def voc_palette() -> NDArray[np.uint8]:
    """The PASCAL VOC colour map, uint8 [256, 3]: bit k of channel c is bit 3k + c of the index."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours


def _coco_label(scene: Scene) -> Image.Image:
    """COCO-Stuff pixel maps: raw ids 0..181 (category id - 1), 255 unlabelled."""
    table = np.array([c.coco_id for c in SCENE_CLASSES], np.uint8)
    return Image.fromarray(table[scene.label])


SCENE_LAYOUTS = {
    "voc2012": SceneLayout(
        folder="VOC2012",
        image="JPEGImages/{name}.jpg",
        label="SegmentationClass/{name}.png",
        name=lambda split, i: f"{2011 if split == 'train' else 2012}_{i + 1:06d}",
        encode=_voc_label,
        splits={"train": "train", "val": "val"},
        split_list="ImageSets/Segmentation/{split}.txt",
        favoured=tuple(c.name for c in THING_CLASSES if c.voc_index),
    ),
    "coco_stuff164k": SceneLayout(
        folder="coco_stuff164k",
        image="images/{split}/{name}.jpg",
        label="annotations/{split}/{name}.png",
        name=lambda split, i: f"{i + 1 + (0 if split == 'train' else 500_000):012d}",
        encode=_coco_label,
        splits={"train": "train2017", "val": "val2017"},
        split_list=None,
        favoured=(),
    ),
}


def write_scenes(
    layout: str,
    out: Path,
    *,
    train: int,
    val: int,
    seed: int = 0,
    development: bool = False,
    progress: Progress | None = None,
    processes: int = 1,
) -> int:
    """Write a scene data set in a benchmark's layout; returns how many images it has.

    Training images come from the training seeds, validation images from the evaluation seeds, or
    from the development seeds if asked for. `scenes.parquet` (image_id, name, glyph, held_out,
    visible_pixels; one row an object) and the split lists come last: a run that was cut off goes
    on, and the files are the same bytes. A script that asks for more than one process needs the
    usual `if __name__ == "__main__":`.

    Raises:
        DataError: unknown layout, negative counts, a seed outside 0..99, or `out` holds scenes of
            another seed.
    """
    if layout not in SCENE_LAYOUTS:
        known = ", ".join(SCENE_LAYOUTS)
        raise DataError(f"scenes have no layout {layout!r}: choose one of {known}")
    if train < 0 or val < 0 or train + val == 0:
        raise DataError(f"{train} train and {val} val scenes: ask for at least one, none below 0")
    record = SCENE_LAYOUTS[layout]
    _claim(out, {"layout": layout, "seed": seed, "development": development})
    source = {"train": "training", "val": "development" if development else "evaluation"}
    jobs = [("train", i) for i in range(train)] + [("val", i) for i in range(val)]
    rows: list[Row] = []
    write = partial(_write_one, layout, out, seed, source)
    with (progress or silent_progress()).task(f"scenes {layout}", len(jobs)) as task:
        for part in _mapped(write, jobs, processes):
            rows.extend(part)
            task.advance(1)
    columns = ["image_id", "name", "glyph", "held_out", "visible_pixels"]
    table = pd.DataFrame(rows, columns=columns)
    _atomically(out / "scenes.parquet", lambda path: table.to_parquet(path, index=False))
    if record.split_list is not None:
        for split, count in (("train", train), ("val", val)):
            names = "".join(record.name(split, i) + "\n" for i in range(count))
            file = out / record.split_list.format(split=record.splits[split])
            _atomically(file, partial(_write_text, names))
    return len(jobs)


def scenes(config: Config, paths: Paths, progress: Progress) -> StageReport:
    """The stage `scenes`: every layout of `scenes.layouts` under data/scenes.

    Scenes are drawn into .fmbseg/scenes/<key> and appear in data/scenes when all are there.
    """
    section = config.scenes
    state = scenes_state(config, paths)
    key = state.key
    count = sum(layout.train + layout.val for layout in section.layouts.values())
    if state.published:
        return StageReport("scenes", key, 0, count)
    drawn = paths.drawn_scenes / key
    for name, layout in section.layouts.items():
        folder = drawn / SCENE_LAYOUTS[name].folder
        write_scenes(
            name,
            folder,
            train=layout.train,
            val=layout.val,
            seed=section.seed,
            progress=progress,
            processes=config.run.threads,
        )
    drawn.mkdir(parents=True, exist_ok=True)
    record = {"stage": "scenes", "key": key, "images": count}
    _atomically(drawn / "manifest.json", lambda path: path.write_text(json.dumps(record) + "\n"))
    staged = paths.scenes.with_name(f".scenes.{os.getpid()}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(drawn, staged)
    shutil.rmtree(paths.scenes, ignore_errors=True)
    os.replace(staged, paths.scenes)
    return StageReport("scenes", key, count, 0)


def scenes_state(config: Config, paths: Paths) -> StageState:
    """The content key of the scenes, and whether they are there; draws nothing."""
    key = content_key(
        "scenes",
        schema=1,
        params=config.scenes.model_dump(mode="json"),
        inputs={},
        weights={},
        sources=[Path(__file__).with_name(name) for name in SOURCES],
        threads=1,  # scenes do not depend on the number of threads
    )
    return StageState(key, published_key(paths.scenes) == key)


def _claim(out: Path, request: dict[str, object]) -> None:
    """Note in the folder what its scenes are, so that two sets are never mixed."""
    note = out / "scenes.json"
    if note.is_file():
        there = json.loads(note.read_text(encoding="utf-8"))
        if there != request:
            raise DataError(f"{out} holds other scenes ({there}): choose an empty folder")
        return
    text = json.dumps(request) + "\n"
    _atomically(note, partial(_write_text, text))


def _mapped(
    write: Callable[[tuple[str, int]], list[Row]], jobs: list[tuple[str, int]], processes: int
) -> Iterator[list[Row]]:
    if processes < 2 or len(jobs) < 64:
        yield from map(write, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(write, jobs, chunksize=16)


def _write_one(
    layout: str, out: Path, seed: int, source: dict[str, str], job: tuple[str, int]
) -> list[Row]:
    split, index = job
    record = SCENE_LAYOUTS[layout]
    number = scene_seed(source[split], index, seed)
    rng = np.random.default_rng(number)
    # Most objects of a favouring layout are its own classes; every fifth scene draws from all.
    classes = record.favoured if record.favoured and rng.random() < 0.8 else None
    scene = render_scene(number, size=SIZES[rng.integers(len(SIZES))], classes=classes)
    name = record.name(split, index)
    image = out / record.image.format(split=record.splits[split], name=name)
    label = out / record.label.format(split=record.splits[split], name=name)
    if not image.is_file():
        picture = Image.fromarray(scene.image)
        _atomically(image, lambda path: picture.save(path, "JPEG", quality=95))
    if not label.is_file():
        truth = record.encode(scene)
        _atomically(label, lambda path: truth.save(path, "PNG"))
    return [
        {
            "image_id": name,
            "name": item.name,
            "glyph": item.glyph,
            "held_out": item.held_out,
            "visible_pixels": item.visible_pixels,
        }
        for item in scene.objects
    ]


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _atomically(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
