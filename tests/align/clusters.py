"""Patches that a head can learn, and trainings on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fmbseg.align.feature_store import Float16
from fmbseg.align.training import Target, TrainedHead, train_head
from fmbseg.config import AlignSection
from fmbseg.machine.progress import silent_progress

CLASSES, CHANNELS, DIM = 4, 12, 8


class ClusteredPatches:
    """Patches around one centre a class, on grids of two sizes; their labels beside them."""

    def __init__(self, images: int = 9, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(CLASSES, CHANNELS)) * 2
        self.labels = []
        self._values: list[Float16] = []
        for index in range(images):
            grid = (4, 5) if index % 3 else (3, 6)
            label = rng.integers(0, CLASSES, grid)
            values = centres[label] + rng.normal(size=(*grid, CHANNELS))
            label[rng.random(grid) < 0.2] = 255
            self._values.append(values.astype(np.float16))
            self.labels.append(label.astype(np.uint8))

    @property
    def dim(self) -> int:
        return CHANNELS

    @property
    def image_ids(self) -> tuple[str, ...]:
        return tuple(f"picture-{index}" for index in range(len(self)))

    def __len__(self) -> int:
        return len(self._values)

    def grid(self, index: int) -> tuple[int, int]:
        height, width, _ = self._values[index].shape
        return height, width

    def load(self, index: int) -> Float16:
        return self._values[index]


def anchors() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(CLASSES, DIM, generator=generator), dim=1)


def section(**values: Any) -> AlignSection:
    known = {"epochs": 6, "batch_images": 2, "attention_heads": 3, "learning_rate": 3e-3}
    return AlignSection.model_validate(known | values)


def train(directory: Path, data: ClusteredPatches, **values: Any) -> TrainedHead:
    return train_head(
        data, [Target(data.labels, anchors())], section(**values), 0, directory, silent_progress()
    )


def assert_same_bytes(one: TrainedHead, other: TrainedHead) -> None:
    assert one.curve == other.curve
    assert one.head.state_dict().keys() == other.head.state_dict().keys()
    for name, value in one.head.state_dict().items():
        assert torch.equal(value, other.head.state_dict()[name]), name


def accuracy(trained: TrainedHead, data: ClusteredPatches) -> float:
    right = total = 0
    for index, label in enumerate(data.labels):
        with torch.no_grad():
            z = trained.head(torch.from_numpy(data.load(index)).float()[None])[0]
        best = (z @ anchors().T).argmax(dim=-1).numpy()
        right += int((best == label)[label != 255].sum())
        total += int((label != 255).sum())
    return right / total
