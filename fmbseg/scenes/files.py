"""Scenes drawn and written: one data set in a benchmark's layout."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from fmbseg.data.drawn import SCENE_OBJECTS
from fmbseg.errors import DataError
from fmbseg.machine.processes import process_pool
from fmbseg.machine.progress import Progress, silent_progress
from fmbseg.scenes.layouts import SCENE_LAYOUTS
from fmbseg.scenes.render import render_scene, scene_seed

SIZES = ((160, 128), (128, 160), (144, 144), (176, 128), (128, 128))  # (width, height) px
CLAIM = "scenes.json"
DRAWING = ".drawing"  # folder of files not yet whole, gone when all scenes are there
COLUMNS = ["image_id", "name", "glyph", "held_out", "visible_pixels"]
Rows = list[tuple[object, ...]]


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
    on, and the files are the same bytes; one that is there and not as it should be is made again.
    A script that asks for more than one process needs the usual `if __name__ == "__main__":`.

    Raises:
        DataError: unknown layout, negative counts, a seed outside 0..99, or `out` holds scenes of
            another seed, or its `scenes.json` is damaged.
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
    rows: Rows = []
    write = partial(_write_one, layout, out, seed, source)
    with (progress or silent_progress()).task(f"scenes {layout}", len(jobs)) as task:
        for part in _mapped(write, jobs, processes):
            rows.extend(part)
            task.advance(1)
    table = pd.DataFrame(rows, columns=COLUMNS)
    _atomically(out, out / SCENE_OBJECTS, table.to_parquet(index=False))
    if record.split_list is not None:
        for split, count in (("train", train), ("val", val)):
            names = [record.name(split, i) for i in range(count)]
            word = record.splits[split]
            lines = "".join(record.split_line.format(split=word, name=n) + "\n" for n in names)
            _atomically(out, out / record.split_list.format(split=word), lines.encode())
    for note, text in record.notes.items():
        _atomically(out, out / note, text.encode())
    shutil.rmtree(out / DRAWING, ignore_errors=True)
    return len(jobs)


def _claim(out: Path, request: dict[str, object]) -> None:
    """Note in the folder what its scenes are, so that two sets are never mixed."""
    note = out / CLAIM
    try:
        there = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _atomically(out, note, f"{json.dumps(request)}\n".encode())
        return
    except ValueError as error:
        raise DataError(f"{note} is damaged: remove {out}, or choose an empty folder") from error
    if there != request:
        raise DataError(f"{out} holds other scenes ({there}): choose an empty folder")


def _mapped(
    write: Callable[[tuple[str, int]], Rows], jobs: list[tuple[str, int]], processes: int
) -> Iterator[Rows]:
    if processes < 2 or len(jobs) < 64:
        yield from map(write, jobs)
        return
    with process_pool(processes) as pool:
        yield from pool.imap(write, jobs, chunksize=16)


def _write_one(
    layout: str, out: Path, seed: int, source: dict[str, str], job: tuple[str, int]
) -> Rows:
    split, index = job
    record = SCENE_LAYOUTS[layout]
    number = scene_seed(source[split], index, seed)
    rng = np.random.default_rng(number)
    # Most objects are classes the benchmark names; every fifth scene draws from all, so that its
    # rule for the other pixels is met too.
    classes = record.things if record.things and rng.random() < 0.8 else None
    size = SIZES[rng.integers(len(SIZES))]
    scene = render_scene(number, size=size, classes=classes, stuff=record.stuff or None)
    image, label = record.paths(out, split, record.name(split, index))
    _complete(out, image, _encoded(Image.fromarray(scene.image), image.suffix))
    _complete(out, label, _encoded(record.encode(scene), label.suffix))
    return [
        (image.stem, item.name, item.glyph, item.held_out, item.visible_pixels)
        for item in scene.objects
    ]


def _complete(out: Path, path: Path, data: bytes) -> None:
    # That a file is there says little: it may have been truncated since. Most of the time goes
    # into drawing a scene, which its rows of the table ask for anyway.
    if not path.is_file() or path.read_bytes() != data:
        _atomically(out, path, data)


def _encoded(picture: Image.Image, suffix: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG" if suffix == ".jpg" else "PNG", quality=95)  # PNG has none
    return stream.getvalue()


def _atomically(out: Path, path: Path, data: bytes) -> None:
    # Not brought to disk one by one, as `store.atomic` does: there are thousands of small files,
    # and the stage copies the whole folder when they are all there, and seals the copy.
    path.parent.mkdir(parents=True, exist_ok=True)
    (out / DRAWING).mkdir(exist_ok=True)
    temporary = out / DRAWING / f"{os.getpid()}-{path.name}"
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
