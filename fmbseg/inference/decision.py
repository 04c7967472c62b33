"""From similarities to label maps: the best class of each pixel, and the background rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fmbseg.config import EvaluateSection
from fmbseg.evaluate.sweep import COSINES, PROBABILITIES
from fmbseg.inference.protocol import BackgroundRule
from fmbseg.inference.segmenter import best_class

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Threshold:
    """The background rule of one image: pixels less sure than a threshold are background.

    Attributes:
        confidence: [H, W] float32, of the best class.
        value: the threshold.
        background: index of the background class.
        others: thresholds a sweep compares, ascending.
    """

    confidence: npt.NDArray[np.float32]
    value: float
    background: int
    others: tuple[float, ...]


@dataclass(frozen=True)
class Decision:
    """What a method says about one image.

    Attributes:
        best: [H, W] int64 class indices before any threshold; 255 = unlabelled.
        threshold: None: no rule applies, `best` is the result.
    """

    best: Labels
    threshold: Threshold | None = None

    @property
    def labels(self) -> Labels:
        """[H, W] int64 class indices; 255 = unlabelled."""
        rule = self.threshold
        if rule is None:
            return self.best
        return np.where(rule.confidence < np.float32(rule.value), rule.background, self.best)


def decide(
    maps: Tensor,
    classes: Tensor,
    size: tuple[int, int],
    background: int | None,
    rule: BackgroundRule,
    section: EvaluateSection,
) -> Decision:
    """Upsample maps and decide, in bands of rows.

    Args:
        maps: [M, h, w] float32 cosines, a map a class or a map a word.
        classes: [M] int64, the class of each map, on the device of `maps`.
        size: (H, W) of the image, pixels.
        background: index of the background class; None: there is none.
        rule: how pixels become background, besides by the background's own words.
        section: logit scale, threshold and score of the rules.
    """
    if background is None or rule == "words":
        best, _ = best_class(maps, size)
        return Decision(_array(classes[best]))
    if rule == "constant":
        others = classes != background
        maps, classes = maps[others], classes[others]
        if not len(classes):
            return Decision(np.full(size, background, dtype=np.int64))
        best, sure = best_class(maps, size)
        value, grid = section.background_score, COSINES
    else:
        # The most probable word belongs to the class whose most probable word it is.
        best, sure = best_class(maps, size, section.logit_scale)
        value, grid = section.background_threshold, PROBABILITIES
    confidence: npt.NDArray[np.float32] = sure.cpu().numpy()
    return Decision(_array(classes[best]), Threshold(confidence, value, background, grid))


def _array(labels: Tensor) -> Labels:
    array: Labels = labels.to(torch.int64).cpu().numpy()
    return array
