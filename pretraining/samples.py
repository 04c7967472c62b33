"""Pretraining data: crops with captions, pairs with correspondences, scenes with instances.

Everything is rendered once into `.npy` files, so that the training loop keeps its core. Seeds come
from the `pretraining` range, held-out glyphs never appear.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fmbseg import scenes
from fmbseg.data import labels
from fmbseg.data.labels import patch_majority
from fmbseg.machine.processes import process_pool
from fmbseg.scenes.classes import CLASS_INDEX, SCENE_CLASSES, STUFF_CLASSES
from fmbseg.scenes.render import Scene, render_scene, scene_seed
from fmbseg.scenes.textures import texture
from fmbseg.store.atomic import write_atomically
from fmbseg.store.digest import file_digest, json_digest

Arrays = dict[str, NDArray[np.generic]]
CROP = 64
_TEXTURE = 96  # px of which a scene shows a part
PATCH = 8
GRID = CROP // PATCH
THINGS = tuple(c for c in SCENE_CLASSES if c.kind == "thing")
DONE = "done.json"
_DRAWING = (
    Path(__file__),
    Path(labels.__file__),
    *sorted(Path(scenes.__file__).parent.glob("*.py")),
)


def code_digest(files: Sequence[Path]) -> str:
    """The sha256 of some source files, hex; where they lie does not count."""
    return json_digest(sorted([file.name, file_digest(file)] for file in files))


def pretraining_glyphs() -> tuple[tuple[str, int], ...]:
    """All (class name, glyph index) pairs that pretraining may show."""
    return tuple(
        (c.name, g) for c in THINGS for g, glyph in enumerate(c.glyphs) if glyph != c.held_out_glyph
    )


def captioned_crops(index: int) -> list[Arrays]:
    """Three 64 px crops of scenes with the share of each class, i.e. what a caption can name.

    Returns a list of {"image": uint8 [64, 64, 3], "share": uint8 [C] in 1/255 of the crop,
    "patch": uint8 [8, 8] majority class of each patch (for held-out figures only)}.
    """
    rng = np.random.default_rng((1, index))
    glyphs = pretraining_glyphs()
    crops = []
    single = [glyphs[rng.integers(len(glyphs))] for _ in range(1 + int(rng.random() < 0.25))]
    scene = render_scene(
        scene_seed("pretraining", index),
        size=(CROP, CROP),
        objects=single,
        scale=(0.35, 0.95),
        include_held_out=False,
    )
    crops.append(_captioned(scene, 0, 0))
    count = int(rng.integers(1, 5))
    chosen = [glyphs[rng.integers(len(glyphs))] for _ in range(count)]
    scene = render_scene(
        scene_seed("pretraining", index, seed=1),
        size=(128, 128),
        objects=chosen,
        include_held_out=False,
    )
    for _ in range(2):
        places = rng.integers(0, 128 - CROP + 1, size=(3, 2))
        things = [
            int((scene.label[y : y + CROP, x : x + CROP] < len(THINGS)).sum()) for y, x in places
        ]
        top, left = places[int(np.argmax(things))]
        crops.append(_captioned(scene, int(top), int(left)))
    return crops


def _captioned(scene: Scene, top: int, left: int) -> Arrays:
    image = scene.image[top : top + CROP, left : left + CROP]
    label = scene.label[top : top + CROP, left : left + CROP]
    share = np.bincount(label.ravel(), minlength=len(SCENE_CLASSES)) / label.size
    majority, _ = patch_majority(label, (GRID, GRID))
    return {
        "image": np.ascontiguousarray(image),
        "share": np.ceil(share * 255).astype(np.uint8),
        "patch": majority.astype(np.uint8),
    }


def corresponding_pair(index: int) -> list[Arrays]:
    """Two 64 px scenes with the same one or two glyphs on the same two textures, seen otherwise.

    A texture is a recipe and its seed; each scene shows another part of it, in another size and
    light. Which recipes are of one class is not asked: two seeds of a recipe are two textures.

    Returns one record {"image": uint8 [2, 64, 64, 3], "region": int32 [2, 64] what covers most of
    each patch: a glyph's id, or -1 - the texture's number, which no other pair has; "uv": float16
    [2, 64, 2] mean place on the glyph in 0..1, "purity": float16 [2, 64] share of the patch that
    the region covers}.
    """
    rng = np.random.default_rng((2, index))
    glyphs = pretraining_glyphs()
    chosen = [glyphs[rng.integers(len(glyphs))] for _ in range(1 + int(rng.random() < 0.4))]
    names = [STUFF_CLASSES[k].name for k in rng.choice(len(STUFF_CLASSES), 2, replace=False)]
    whole = {name: texture(name, rng, _TEXTURE, _TEXTURE) for name in names}
    numbers = {CLASS_INDEX[name]: 2 * index + k for k, name in enumerate(names)}
    views = []
    for view in range(2):
        scene = render_scene(
            scene_seed("pretraining", 2 * index + view, seed=2),
            size=(CROP, CROP),
            objects=chosen,
            scale=(0.4, 1.2),
            include_held_out=False,
            stuff=names,
            paint=lambda name, drawn, *size: _seen_otherwise(whole[name], drawn, *size),
            correspondence=True,
        )
        views.append(_patch_correspondence(scene, numbers))
    return [{key: np.stack([v[key] for v in views]) for key in views[0]}]


def _seen_otherwise(
    whole: NDArray[np.float32], rng: np.random.Generator, height: int, width: int
) -> NDArray[np.float32]:
    """A part of a texture [_TEXTURE, _TEXTURE, 3] in another size and light, [height, width, 3]."""
    scale = rng.uniform(0.75, 1.35)
    rows, columns = round(height / scale), round(width / scale)
    top, left = rng.integers(0, _TEXTURE - rows + 1), rng.integers(0, _TEXTURE - columns + 1)
    part = whole[top : top + rows, left : left + columns]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    light = rng.uniform(0.9, 1.1, 3).astype(np.float32)
    resized = cv2.resize(part, (width, height), interpolation=way)
    return np.asarray(np.clip(resized * light, 0, 255), np.float32)


def _patch_correspondence(scene: Scene, numbers: Mapping[int, int]) -> Arrays:
    """Regions of a scene; `numbers` are those of its textures, by class index."""
    assert scene.glyph is not None and scene.uv is not None
    regions = scene.glyph.copy()
    for label, number in numbers.items():
        regions[(scene.glyph < 0) & (scene.label == label)] = -1 - number
    ids = regions.reshape(GRID, PATCH, GRID, PATCH).swapaxes(1, 2).reshape(GRID * GRID, -1)
    places = scene.uv.reshape(GRID, PATCH, GRID, PATCH, 2).swapaxes(1, 2)
    places = places.reshape(GRID * GRID, -1, 2)
    majority, share = (found.ravel() for found in patch_majority(regions, (GRID, GRID)))
    uv = np.zeros((GRID * GRID, 2), np.float16)
    for k, best in enumerate(majority):
        uv[k] = np.nan_to_num(places[k][ids[k] == best]).mean(0)
    region = majority.astype(np.int32)
    return {"image": scene.image, "region": region, "uv": uv, "purity": share.astype(np.float16)}


def instance_scene(index: int) -> list[Arrays]:
    """A scene whose longer side is 128 px, padded to a square as SAM pads, with its instances.

    Returns one record {"image": uint8 [128, 128, 3], "instance": uint8 [128, 128] (0 = padding),
    "size": uint8 [2] (height, width)}.
    """
    rng = np.random.default_rng((3, index))
    sizes = ((128, 102), (102, 128), (128, 128), (128, 93), (128, 96))
    width, height = sizes[rng.integers(len(sizes))]
    scene = render_scene(
        scene_seed("pretraining", index, seed=3),
        size=(width, height),
        n_objects=(1, 5),
        include_held_out=False,
    )
    image = np.zeros((128, 128, 3), np.uint8)
    instance = np.zeros((128, 128), np.uint8)
    image[:height, :width] = scene.image
    instance[:height, :width] = scene.instance
    return [{"image": image, "instance": instance, "size": np.array([height, width], np.uint8)}]


def materialise(
    make: Callable[[int], list[Arrays]],
    indices: Sequence[int],
    folder: Path,
    processes: int = 2,
) -> dict[str, NDArray[np.generic]]:
    """Render samples into `folder`/<field>.npy once and return them memory-mapped.

    The folder counts as complete when its `done.json` names the same index range, drawn by the
    same code.
    """
    want = {
        "first": indices[0],
        "last": indices[-1],
        "count": len(indices),
        "code": code_digest(_DRAWING),
    }
    done = folder / DONE
    if not (done.is_file() and json.loads(done.read_text()) == want):
        folder.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)  # from here on the folder is neither the old nor the new one
        with process_pool(processes) as pool:
            parts = pool.map(make, indices, chunksize=64)
        records = [record for part in parts for record in part]
        for key in records[0]:
            np.save(folder / f"{key}.npy", np.stack([r[key] for r in records]))
        write_atomically(done, json.dumps(want).encode())
    return {f.stem: np.load(f, mmap_mode="r") for f in sorted(folder.glob("*.npy"))}
