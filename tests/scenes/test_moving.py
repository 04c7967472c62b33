"""Scenes that move: exact truth, exact motion."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from fmbseg.scenes.moving import moving_scene
from fmbseg.scenes.render import render_scene, scene_seed


def test_what_moves_is_known_pixel_by_pixel() -> None:
    for index in range(4):
        frames = list(moving_scene(scene_seed("development", index), 6))
        assert frames[0].before is None
        moved = 0
        for last, frame in pairwise(frames):
            assert frame.before is not None
            seen = frame.before[..., 0] >= 0
            assert seen.mean() > 0.8
            rows, columns = frame.before[seen].T
            now, then = frame.scene, last.scene
            assert (now.label[seen] == then.label[rows, columns]).all()
            assert (now.instance[seen] == then.instance[rows, columns]).all()
            # What is seen is the same but for the noise, new in each frame, and blended outlines.
            off = np.abs(now.image[seen].astype(int) - then.image[rows, columns])
            assert 2 < off.mean() < 8
            moved += int((now.instance[seen] >= 3).sum())
            assert (frame.before[now.instance < 3] != -1).mean() > 0.9
        assert moved > 0


def test_a_scene_at_rest_is_the_scene() -> None:
    seed = scene_seed("development", 7)
    still = render_scene(seed, n_objects=(2, 2))
    again = render_scene(seed, n_objects=(2, 2), moved=[(0, 0), (0, 0)])
    assert (still.image == again.image).all() and (still.label == again.label).all()
    noisy = render_scene(seed, n_objects=(2, 2), noise_seed=1)
    assert (noisy.label == still.label).all()
    assert 2 < np.abs(noisy.image.astype(int) - still.image).mean() < 8
