"""Scenes drawn and written: one data set in a benchmark's layout, and the stage of all of them."""

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

from fmbseg.config import Config
from fmbseg.data.scene_layouts import SCENE_LAYOUTS
from fmbseg.data.scenes import render_scene, scene_seed
from fmbseg.errors import DataError
from fmbseg.machine.processes import process_pool
from fmbseg.machine.progress import Progress, silent_progress
from fmbseg.store.atomic import remove_abandoned, replace_directory, seal, temporary_directory
from fmbseg.store.digest import content_key
from fmbseg.store.paths import Paths
from fmbseg.store.shards import MANIFEST, StageReport, StageState, is_published

SIZES = ((160, 128), (128, 160), (144, 144), (176, 128), (128, 128))  # (width, height) px
SOURCES = (
    *("layouts.py", "scene_classes.py", "textures.py", "scenes.py"),
    *("scene_layouts.py", "scene_files.py"),
)
_CLAIM = "scenes.json"
_DRAWING = ".drawing"  # folder of files not yet whole, gone when all scenes are there
Row = dict[str, object]


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
    rows: list[Row] = []
    write = partial(_write_one, layout, out, seed, source)
    with (progress or silent_progress()).task(f"scenes {layout}", len(jobs)) as task:
        for part in _mapped(write, jobs, processes):
            rows.extend(part)
            task.advance(1)
    columns = ["image_id", "name", "glyph", "held_out", "visible_pixels"]
    table = pd.DataFrame(rows, columns=columns)
    _atomically(out, out / "scenes.parquet", lambda path: table.to_parquet(path, index=False))
    if record.split_list is not None:
        for split, count in (("train", train), ("val", val)):
            names = [record.name(split, i) for i in range(count)]
            word = record.splits[split]
            lines = "".join(record.split_line.format(split=word, name=n) + "\n" for n in names)
            file = out / record.split_list.format(split=word)
            _atomically(out, file, partial(_write_text, lines))
    for note, text in record.notes.items():
        _atomically(out, out / note, partial(_write_text, text))
    shutil.rmtree(out / _DRAWING, ignore_errors=True)
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
        # The key says already what is drawn here; a damaged note must not stop the run.
        (folder / _CLAIM).unlink(missing_ok=True)
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
    header = {"stage": "scenes", "key": key, "images": count}
    remove_abandoned(paths.scenes.parent)
    with temporary_directory(paths.scenes.parent, "scenes") as staged:
        whole = staged / "scenes"
        # A process of a killed run may still be drawing.
        shutil.copytree(drawn, whole, ignore=shutil.ignore_patterns(_DRAWING))
        seal(whole, MANIFEST, header)
        replace_directory(whole, paths.scenes)
    return StageReport("scenes", key, count, 0)


def scenes_state(config: Config, paths: Paths) -> StageState:
    """The content key of the scenes, and whether they are all there undamaged; draws nothing."""
    sources = [Path(__file__).with_name(name) for name in SOURCES]
    sources += sorted(Path(__file__).with_name("vocabularies").glob("*.yaml"))
    key = content_key(
        "scenes",
        schema=1,
        params=config.scenes.model_dump(mode="json"),
        inputs={},
        weights={},
        sources=sources,
        threads=1,  # scenes do not depend on the number of threads
    )
    return StageState(key, is_published(paths.scenes, key))


def _claim(out: Path, request: dict[str, object]) -> None:
    """Note in the folder what its scenes are, so that two sets are never mixed."""
    note = out / _CLAIM
    try:
        there = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        text = json.dumps(request) + "\n"
        _atomically(out, note, partial(_write_text, text))
        return
    except ValueError as error:
        raise DataError(f"{note} is damaged: remove {out}, or choose an empty folder") from error
    if there != request:
        raise DataError(f"{out} holds other scenes ({there}): choose an empty folder")


def _mapped(
    write: Callable[[tuple[str, int]], list[Row]], jobs: list[tuple[str, int]], processes: int
) -> Iterator[list[Row]]:
    if processes < 2 or len(jobs) < 64:
        yield from map(write, jobs)
        return
    with process_pool(processes) as pool:
        yield from pool.imap(write, jobs, chunksize=16)


def _write_one(
    layout: str, out: Path, seed: int, source: dict[str, str], job: tuple[str, int]
) -> list[Row]:
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
    _complete(out, label, _encoded(record.encode(scene)))
    return [
        {
            "image_id": image.stem,
            "name": item.name,
            "glyph": item.glyph,
            "held_out": item.held_out,
            "visible_pixels": item.visible_pixels,
        }
        for item in scene.objects
    ]


def _complete(out: Path, path: Path, data: bytes) -> None:
    # That a file is there says little: it may have been truncated since. Most of the time goes
    # into drawing a scene, which its rows of the table ask for anyway.
    if not path.is_file() or path.read_bytes() != data:
        _atomically(out, path, lambda place: place.write_bytes(data))


def _encoded(picture: Image.Image, suffix: str = ".png") -> bytes:
    stream = io.BytesIO()
    if suffix == ".png":
        picture.save(stream, "PNG")
    else:
        picture.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _atomically(out: Path, path: Path, write: Callable[[Path], object]) -> None:
    # Not brought to disk one by one, as `store.atomic` does: there are thousands of small files,
    # and the stage copies the whole folder when they are all there, and seals the copy.
    path.parent.mkdir(parents=True, exist_ok=True)
    (out / _DRAWING).mkdir(exist_ok=True)
    temporary = out / _DRAWING / f"{os.getpid()}-{path.name}"
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
