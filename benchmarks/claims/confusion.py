"""Counting the pixels of a prediction: 1024 x 2048, 171 classes, labels as files have them."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.comparing import Claim, Work

CLASSES = 171


def prepare(device: str, library: str) -> tuple[Work, Work]:
    """Ours, and a sum over 64-bit indices by numpy or torch (as torchmetrics has it)."""
    import torch

    from fmbseg.evaluate.metrics import ConfusionMatrix

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, CLASSES, (64, 128), dtype=np.uint8)
    truth = np.kron(coarse, np.ones((16, 16), dtype=np.uint8))
    wrong = rng.random(truth.shape) < 0.3
    found = np.where(wrong, rng.integers(0, CLASSES, truth.shape, dtype=np.uint8), truth)
    truth[rng.random(truth.shape) < 0.02] = 255

    def ours() -> Any:
        counts = ConfusionMatrix(CLASSES)
        for _ in range(10):
            counts.update(found, truth)
        return counts.matrix[:, :CLASSES]

    def numpy() -> Any:
        total = np.zeros(CLASSES * CLASSES, dtype=np.int64)
        for _ in range(10):
            scored = truth != 255
            index = CLASSES * truth[scored].astype(np.int64) + found[scored]
            total += np.bincount(index, minlength=len(total))
        return total.reshape(CLASSES, CLASSES)

    def by_torch() -> Any:
        total = torch.zeros(CLASSES * CLASSES, dtype=torch.int64)
        for _ in range(10):
            predicted, target = torch.from_numpy(found).long(), torch.from_numpy(truth).long()
            scored = target != 255
            index = CLASSES * target[scored] + predicted[scored]
            total += torch.bincount(index, minlength=len(total))
        return total.view(CLASSES, CLASSES).numpy()

    return ours, numpy if library == "numpy" else by_torch


def same(ours: Any, other: Any) -> str:
    """Counts must be equal."""
    return "equal counts" if np.array_equal(ours, other) else "OTHER COUNTS"


CLAIMS = (
    Claim(
        "confusion-numpy",
        "confusion matrix of ten 1024 x 2048 maps, 171 classes, beside numpy's bincount",
        5.0,
        lambda device: prepare(device, "numpy"),
        same,
    ),
    Claim(
        "confusion-torch",
        "the same beside torch.bincount, as torchmetrics counts",
        5.0,
        lambda device: prepare(device, "torch"),
        same,
    ),
)
