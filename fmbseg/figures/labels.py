"""Stage 1.1 against 1.1 with 1.2, good and bad cases (after Figure 5 of the paper)."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from fmbseg.data.datasets import Sample
from fmbseg.data.labels import Label
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.evaluate.benchmark import truth_of
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.figures.canvas import head_row, panels, show, write
from fmbseg.figures.results import painted
from fmbseg.figures.studio import Studio
from fmbseg.pseudo.pipeline import label_image

_LOOKED_AT = 16
_EACH = 2  # of those that gain, and of those that lose


def draw(studio: Studio) -> Figure:
    """A row a picture of the first benchmark: itself, truth, 1.1, 1.1 + 1.2."""
    dataset = studio.benchmark(studio.benchmarks[0])
    words = dataset.vocabulary
    cases = []
    for sample in dataset[:_LOOKED_AT]:
        without, both = _labels(studio, sample, words)
        gain = _miou(both, sample, words) - _miou(without, sample, words)
        if not math.isnan(gain):
            cases.append((gain, sample, without, both))
    cases.sort(key=lambda case: -case[0])
    chosen = [*cases[:_EACH], *cases[max(_EACH, len(cases) - _EACH) :]]
    figure, axes = panels(max(1, len(chosen)), 4)
    for line, (gain, sample, without, both) in zip(axes, chosen, strict=False):
        image = sample.image
        show(line[0], np.asarray(image))
        write(line[0].set_ylabel, f"{gain:+.0f} mIoU")
        show(line[1], painted(image, truth_of(sample), words))
        show(line[2], painted(image, without, words))
        show(line[3], painted(image, both, words))
    head_row(axes, ("picture", "truth", "1.1", "1.1 + 1.2"))
    return figure


def _labels(studio: Studio, sample: Sample, words: Vocabulary) -> tuple[Label, Label]:
    """Label maps [H, W] of 1.1 alone, and with 1.2."""
    own = studio.config
    alone = own.model_copy(update={"label": own.label.model_copy(update={"use_masks": False})})
    encodings, text = studio.encoder.encode(sample.image), studio.text_of(words)
    without, both = (
        label_image(encodings, studio.encoder.sam.model, text, config).label
        for config in (alone, own)
    )
    return without, both


def _miou(label: Label, sample: Sample, words: Vocabulary) -> float:
    """As `pseudo` is scored: where there is a background, it is what has no label."""
    found = label.astype(np.int64)
    if words.background is not None:
        found[found == words.unlabelled] = words.background
    matrix = ConfusionMatrix(len(words))
    matrix.update(found, truth_of(sample))
    return matrix.miou()
