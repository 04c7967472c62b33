"""From similarities to label maps: the best class of each pixel, and the background rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fmbseg.config import InferenceSection
from fmbseg.inference.maps import Maps, best_map
from fmbseg.inference.protocol import protocol_of

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Threshold:
    """The background rule of one image: pixels less sure than a threshold are background.

    Attributes:
        confidence: [H, W] float32, of the best class.
        measure: what that is.
        value: the threshold.
        background: index of the background class.
    """

    confidence: npt.NDArray[np.float32]
    measure: Literal["probability", "cosine"]
    value: float
    background: int


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
    maps: Maps, size: tuple[int, int], background: int | None, section: InferenceSection
) -> Decision:
    """Upsample maps and decide each pixel; the one way from similarities to labels.

    Args:
        maps: of the image.
        size: (H, W) of the image, pixels.
        background: index of the background class; None: there is none.
        section: how pixels become background, besides by the background's own words.
    """
    rule = "words" if background is None else protocol_of(section).background_rule
    if background is not None and rule == "constant":
        maps = maps.without(background)
        if not len(maps.classes):
            return Decision(np.full(size, background, dtype=np.int64))
    # The most probable word belongs to the class whose most probable word it is.
    best, sure = best_map(maps.values, size, section.logit_scale if rule == "probability" else None)
    labels: Labels = best.cpu().numpy()
    classes = maps.classes.cpu().numpy()
    for row in labels:  # in place: the whole again is eight bytes a pixel
        row[:] = classes[row]
    if background is None or rule == "words":
        return Decision(labels)
    confidence = sure.cpu().numpy()
    if rule == "constant":
        threshold = Threshold(confidence, "cosine", section.background_score, background)
    else:
        threshold = Threshold(confidence, rule, section.background_threshold, background)
    return Decision(labels, threshold)
