"""From similarities to label maps: the best class of each pixel, and the background rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from fmbseg.config import InferenceSection
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.inference.maps import Similarities, best_class, probability_of
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
        best: [H, W] int64 class indices before a threshold for the background; those of a
            vocabulary's `unlabelled` have no label.
        threshold: None: no rule applies, `best` is the result.
    """

    best: Labels
    threshold: Threshold | None = None

    @property
    def labels(self) -> Labels:
        """[H, W] int64 class indices; the vocabulary's `unlabelled` where there is no label."""
        rule = self.threshold
        if rule is None:
            return self.best
        return np.where(rule.confidence < np.float32(rule.value), rule.background, self.best)


@dataclass(frozen=True)
class Found:
    """A decision about one image of H x W pixels, and how sure it is.

    Attributes:
        decision: the decision.
        confidence: [H, W] float32, 0 to 1, of each pixel's label; computed when it is called.
    """

    decision: Decision
    confidence: Callable[[], npt.NDArray[np.float32]]


def decide(
    similarities: Similarities,
    size: tuple[int, int],
    words: Vocabulary,
    section: InferenceSection,
) -> Decision:
    """Upsample maps and decide each pixel; the one way from similarities to labels.

    A pixel whose best class it is less similar to than the class's own threshold is background,
    and where there is none unlabelled.

    Args:
        similarities: of the image.
        size: (H, W) of the image, pixels.
        words: the vocabulary: which class is the background, and the classes' thresholds.
        section: how pixels become background, besides by the background's own words.
    """
    background = words.background
    rule = "words" if background is None else protocol_of(section).background_rule
    if background is not None and rule == "constant":
        similarities = similarities.without(background)
    # The most probable word belongs to the class whose most probable word it is.
    best = best_class(similarities, size, section.logit_scale if rule == "probability" else None)
    if best is None:
        assert background is not None
        return Decision(np.full(size, background, dtype=np.int64))
    labels: Labels = best.classes.cpu().numpy()
    cosine: npt.NDArray[np.float32] = best.cosine.cpu().numpy()
    _reject(labels, cosine, words)
    if background is None or rule == "words":
        return Decision(labels)
    if rule == "constant":
        return Decision(labels, Threshold(cosine, "cosine", section.background_score, background))
    sure: npt.NDArray[np.float32] = best.probability(section.logit_scale).cpu().numpy()
    return Decision(labels, Threshold(sure, rule, section.background_threshold, background))


def _reject(labels: Labels, cosine: npt.NDArray[np.float32], words: Vocabulary) -> None:
    """Take the label of what is less similar than its class's threshold, in place."""
    if (least := words.thresholds) is None:
        return
    otherwise = words.unlabelled if words.background is None else words.background
    labels[cosine < np.array(least, dtype=np.float32)[labels]] = otherwise


def confidence(
    similarities: Similarities, decision: Decision, section: InferenceSection
) -> npt.NDArray[np.float32]:
    """How sure the label of each pixel is.

    Args:
        similarities: what the decision was made from.
        decision: of an image of H x W pixels.
        section: with the scale of the softmax.

    Returns:
        [H, W] float32, 0 to 1: the probability of the label's class, by a softmax over all classes
        (words, where windows are averaged). Of background by a threshold: that it is not the class
        that would have been. 0 without a label.
    """
    best = torch.from_numpy(decision.best)
    for maps in similarities.parts():
        best = best.to(maps.values.device)
        break
    size = decision.best.shape[0], decision.best.shape[1]
    sure: npt.NDArray[np.float32]
    sure = probability_of(similarities, best, size, section.logit_scale).cpu().numpy()
    return np.where(decision.labels == decision.best, sure, 1 - sure)
