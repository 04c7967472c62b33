"""Label maps that are hard to export, and their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary, VocabularyClass
from fmbseg.export.source import NOTHING, Classes, Source
from fmbseg.export.sources import open_source
from tests.workspace import draw_picture

NAMES = ("dog", "potted plant", "sky", "grass")
Label = npt.NDArray[np.int32]


def hard_label() -> Label:
    """A ring with an island of its class in its hole, two holes, a speck, a line, a diagonal."""
    label = np.full((40, 52), NOTHING, dtype=np.int32)
    label[2:30, 3:33] = 0
    label[6:24, 7:20] = NOTHING
    label[10:15, 10:15] = 0  # an island within the hole
    label[12, 12] = 1  # and another class within the island
    label[8:12, 24:28] = 2  # a hole that is another class
    label[0, 51] = 1  # one pixel in a corner
    label[35, 5:30] = 1  # a line
    for step in range(6):
        label[32 + step, 40 + step] = 3  # a diagonal hangs together
    label[20:28, 40:50] = 0  # a second island
    return label


def noise(seed: int, size: tuple[int, int] = (48, 64)) -> Label:
    """Random regions with ragged borders and many holes."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.int32)
    label = smooth * 5 // 256 - 1
    label[rng.random(size) < 0.05] = NOTHING
    return label.clip(NOTHING, len(NAMES) - 1)


def write_labels(root: Path, labels: dict[str, Label], names: Sequence[str] = NAMES) -> Source:
    """Pictures in `images/` and label PNGs in `labels/`, opened as a source."""
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for seed, (file, label) in enumerate(labels.items()):
        height, width = label.shape
        draw_picture(seed, (64, 48)).resize((width, height)).save(root / "images" / file)
        values = np.where(label == NOTHING, 65535 if len(names) > 255 else 255, label)
        dtype = np.uint16 if len(names) > 255 else np.uint8
        path = root / "labels" / f"{Path(file).stem}.png"
        Image.fromarray(values.astype(dtype)).save(path)
    if len(names) > 255:
        source = open_source(root / "labels", Config(), root / "images", few(NAMES))
        return Source(Classes(tuple(names)), source.images)
    return open_source(root / "labels", Config(), root / "images", few(names))


def few(names: Sequence[str], background: int | None = None) -> Vocabulary:
    """A vocabulary of plain names."""
    return Vocabulary("few", tuple(VocabularyClass(name) for name in names), background)


def hard_source(root: Path) -> tuple[Source, dict[str, Label]]:
    """A hard map, one without any label, ragged ones; and the maps by image id."""
    labels = {
        "hard.jpg": hard_label(),
        "nothing.png": np.full((30, 44), NOTHING, dtype=np.int32),
        "ragged.0.jpg": noise(0),
        "whole.PNG": np.full((25, 31), 2, dtype=np.int32),
    }
    source = write_labels(root, labels)
    return source, {Path(file).stem: label for file, label in labels.items()}
