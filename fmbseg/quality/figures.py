"""A figure of the table, and the scenes they are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fmbseg.scenes.render import Scene, render_scene, scene_seed

SIZE = 128  # px, side of a scene
PURITY = 0.5  # a patch counts for the class that covers more than this share of it
# Each part draws from a million of the evaluation seeds of its own; benchmarks use the first ones.
SEEDS = {"crops": 90, "held-out crops": 91, "scenes": 92, "instances": 93, "probe": 94}


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        model: clip, sam or encoder.
        name: what was measured.
        value: in `unit`.
        unit: "%", "IoU" (0 to 1) or "" (a plain number).
        of: how many crops, patches, prompts, ... it is the mean of.
    """

    model: str
    name: str
    value: float
    unit: Literal["%", "IoU", ""]
    of: int

    @property
    def shown(self) -> str:
        """The value with its unit, as the table shows it."""
        digits = {"%": 1, "IoU": 3, "": 1}[self.unit]
        return f"{self.value:.{digits}f} {self.unit}".strip()


def percent(model: str, name: str, right: Any) -> Figure:
    """The share of true values among `right` (an array of bool), in percent; 0 of none."""
    right = np.asarray(right, dtype=bool)
    share = float(right.mean()) if len(right) else 0.0
    return Figure(model, name, round(100 * share, 2), "%", len(right))


def mean_iou(model: str, name: str, values: Any) -> Figure:
    """The mean of IoUs; 0 of none."""
    mean = float(np.mean(values)) if len(values) else 0.0
    return Figure(model, name, round(mean, 4), "IoU", len(values))


def held_out_scene(part: str, index: int) -> Scene:
    """Scene `index` of a part of `SEEDS`, 128 x 128 px, glyphs that pretraining has seen."""
    seed = scene_seed("evaluation", index, seed=SEEDS[part])
    return render_scene(seed, size=(SIZE, SIZE), include_held_out=False)
