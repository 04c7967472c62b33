"""How much labels flicker from frame to frame, and what smoothing over frames changes.

    python -m benchmarks.flicker [--checkpoint data/align] [--method fmbseg] [--scenes 20]

Development scenes whose objects move over a ground at rest, drawn with exact truth and motion
(`fmbseg.scenes.moving`), are segmented frame by frame into the 94 classes of scenes. Flicker is
the share of the pixels seen in both of two consecutive frames whose class changes, although what
they show does not: a pixel is held against the one that it was before, wherever that moved from.
Truth flickers by 0. mIoU is that of all frames together.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.commands.asking import ask_as_trained
from fmbseg.commands.options import lenient_config
from fmbseg.config import Config
from fmbseg.data.vocabulary import vocabulary_from_names
from fmbseg.evaluate.methods.predictor import Predictor, load_predictor
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.inference.smoothing import Smoothing
from fmbseg.scenes.classes import SCENE_CLASSES
from fmbseg.scenes.moving import MovingScene, moving_scene
from fmbseg.scenes.render import scene_seed

SHARES = (0.0, 0.3, 0.6, 0.8, 0.9)
Labels = npt.NDArray[np.int64]


@dataclass
class Changes:
    """Pixels that are seen in two consecutive frames, and those of them whose class changed."""

    seen: int = 0
    changed: int = 0

    def add(self, where: npt.NDArray[np.bool_], changed: npt.NDArray[np.bool_]) -> None:
        """Count some of the pixels; both [H, W] bool."""
        self.seen += int(where.sum())
        self.changed += int((changed & where).sum())

    @property
    def percent(self) -> float:
        """Of those seen."""
        return 100 * self.changed / max(1, self.seen)


@dataclass
class Score:
    """What is counted over all frames of all scenes.

    Attributes:
        matrix: truth against labels.
        ground: changes of what is at rest.
        objects: changes of what moves.
    """

    matrix: ConfusionMatrix = field(default_factory=lambda: ConfusionMatrix(len(SCENE_CLASSES)))
    ground: Changes = field(default_factory=Changes)
    objects: Changes = field(default_factory=Changes)

    def add(self, frame: MovingScene, label: Labels, last: Labels | None) -> None:
        """Count a frame."""
        self.matrix.update(label, frame.scene.label)
        if frame.before is None or last is None:
            return
        seen = frame.before[..., 0] >= 0
        rows, columns = np.where(seen[..., None], frame.before, 0).transpose(2, 0, 1)
        changed = label != last[rows, columns]
        moving = frame.scene.instance >= 3
        self.ground.add(seen & ~moving, changed)
        self.objects.add(seen & moving, changed)

    @property
    def all(self) -> Changes:
        """Changes of both."""
        one, two = self.ground, self.objects
        return Changes(one.seen + two.seen, one.changed + two.changed)


def measure(
    predictor: Predictor, share: float, seeds: Sequence[int], frames: int, size: int
) -> Score:
    """Segment the scenes with a share of smoothing, 0 for none."""
    words = vocabulary_from_names([each.name for each in SCENE_CLASSES])
    score = Score()
    for seed in seeds:
        smoothing = Smoothing(share) if share else None
        last: Labels | None = None
        for frame in moving_scene(seed, frames, (size, size)):
            image = Image.fromarray(frame.scene.image)
            (found,) = predictor.segment([image], words, smoothing=smoothing)
            score.add(frame, found.decision.labels, last)
            last = found.decision.labels
    return score


def table(method: str, scores: Sequence[tuple[float, Score]]) -> Iterator[str]:
    """The scores as a table in Markdown."""
    yield "| method | `--smooth` | mIoU | flicker | of the ground | of objects |"
    yield "|---|---|---|---|---|---|"
    for share, score in scores:
        parts = (score.all, score.ground, score.objects)
        values = " | ".join(f"{part.percent:.2f}" for part in parts)
        yield f"| {method} | {share:g} | {score.matrix.miou():.1f} | {values} |"


def asked(method: str, checkpoint: Path | None) -> tuple[Config, Path | None]:
    """The configuration of a method, as `fmbseg predict` has it."""
    config = lenient_config(Path("params.yaml"), None)
    return (config if checkpoint is None else ask_as_trained(config, checkpoint, ())), checkpoint


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", default="fmbseg")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smooth", type=float, nargs="+", default=SHARES)
    given = parser.parse_args()
    config, head = asked(given.method, given.checkpoint)
    predictor = load_predictor(given.method, config, head)
    seeds = [scene_seed("development", index, given.seed) for index in range(given.scenes)]
    scores = [
        (share, measure(predictor, share, seeds, given.frames, given.size))
        for share in given.smooth
    ]
    print("\n".join(table(given.method, scores)))


if __name__ == "__main__":
    main()
