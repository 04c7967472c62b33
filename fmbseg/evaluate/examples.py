"""Pictures of a benchmark as they are scored: a good, a middling and a bad one, with truth."""

from __future__ import annotations

import math

from PIL import Image

from fmbseg.data.datasets import SegmentationDataset
from fmbseg.evaluate.benchmark import truth_of
from fmbseg.evaluate.methods.predictor import Predictor
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.view.sheet import label_sheet

LOOKED_AT = 24
"""Of so many pictures, the first ones, the three are chosen."""


def example_sheet(predictor: Predictor, dataset: SegmentationDataset) -> Image.Image:
    """A row a picture: image, truth, result. The best, the median and the worst of the first ones.

    Args:
        predictor: labels them as they are scored.
        dataset: with labels.

    Returns:
        RGB, with one legend for all.

    Raises:
        DataError: a picture or its truth is broken.
    """
    words = dataset.vocabulary
    found = []
    for sample in dataset[:LOOKED_AT]:
        (decision,) = predictor.decide([sample.image], words, dataset.name)
        matrix = ConfusionMatrix(len(words))
        matrix.update(decision.labels, truth_of(sample))
        found.append((matrix.miou(), sample, decision.labels))
    # Pictures without a scored pixel say nothing.
    ranked = sorted((each for each in found if not math.isnan(each[0])), key=lambda each: -each[0])
    chosen = dict.fromkeys((0, len(ranked) // 2, len(ranked) - 1)) if ranked else ()
    panels = []
    for miou, sample, labels in [ranked[index] for index in chosen] or found[:1]:
        image, truth = sample.image, truth_of(sample)
        panels += [(sample.image_id, image, None), ("truth", image, truth)]
        panels.append((f"result: {miou:.0f} % mIoU", image, labels))
    return label_sheet(panels, words.names, words.background)
