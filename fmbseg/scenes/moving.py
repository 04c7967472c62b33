"""Scenes whose objects move, frame by frame, with exact truth and exact motion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmbseg.scenes.render import Scene, render_scene

_SLOWEST, _FASTEST = 1, 3  # pixels a frame, along each axis


@dataclass(frozen=True)
class MovingScene:
    """One frame.

    Attributes:
        scene: the frame and its truth.
        before: [H, W, 2] int64, the (row, column) in the frame before of what each pixel shows;
            -1 where it was not seen there. None for the first frame.
    """

    scene: Scene
    before: NDArray[np.int64] | None


def moving_scene(
    seed: int, frames: int, size: tuple[int, int] = (128, 128), objects: int = 3
) -> Iterator[MovingScene]:
    """Frames of a scene whose objects go straight on over a ground at rest.

    Each object moves by 1 to 3 whole pixels a frame along each axis, so that what a pixel shows is
    a pixel of the frame before as well. The noise, of 4 of 255, is new in each frame.

    Args:
        seed: see `scene_seed`.
        frames: how many.
        size: (width, height) in pixels.
        objects: how many there are.
    """
    rng = np.random.default_rng([seed, frames])
    speed = rng.integers(_SLOWEST, _FASTEST + 1, (objects, 2))
    speed *= rng.choice([-1, 1], (objects, 2))
    # From half the way before where the scene has them to half the way after it.
    start = -speed * (frames // 2)
    last: Scene | None = None
    for number in range(frames):
        moved = [(float(x), float(y)) for x, y in start + number * speed]
        scene = render_scene(
            seed,
            size=size,
            n_objects=(objects, objects),
            moved=moved,
            noise_seed=seed * frames + number,
        )
        yield MovingScene(scene, None if last is None else _before(scene, last, speed))
        last = scene


def _before(scene: Scene, last: Scene, speed: NDArray[np.int64]) -> NDArray[np.int64]:
    """See `MovingScene.before`; `speed` [objects, 2] in (x, y)."""
    height, width = scene.instance.shape
    # The two grounds, instances 1 and 2, are at rest; objects begin with 3.
    steps = np.concatenate([np.zeros((3, 2), np.int64), speed])[scene.instance]
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([rows - steps[..., 1], columns - steps[..., 0]], axis=-1)
    inside = np.all((places >= 0) & (places < (height, width)), axis=-1)
    places[~inside] = 0
    same = last.instance[places[..., 0], places[..., 1]] == scene.instance
    places[~(inside & same)] = -1
    return places
