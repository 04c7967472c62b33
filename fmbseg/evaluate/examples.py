"""Pictures of a benchmark as they are scored: a good, a middling and a bad one, with truth."""

from __future__ import annotations

import math

from PIL import Image

from fmbseg.data.datasets import Sample, SegmentationDataset
from fmbseg.evaluate.benchmark import truth_of
from fmbseg.evaluate.methods.predictor import Predictor
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.inference.decision import Labels
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
    words, found = dataset.vocabulary, ranked(predictor, dataset, LOOKED_AT)
    panels = []
    for index in dict.fromkeys((0, len(found) // 2, len(found) - 1)):
        miou, sample, labels = found[index]
        image, truth = sample.image, truth_of(sample)
        panels += [(sample.image_id, image, None), ("truth", image, truth)]
        said = "result" if math.isnan(miou) else f"result: {miou:.0f} % mIoU"
        panels.append((said, image, labels))
    return label_sheet(panels, words.names, words.background)


def ranked(
    predictor: Predictor, dataset: SegmentationDataset, first: int
) -> list[tuple[float, Sample, Labels]]:
    """The first pictures of a benchmark: their own mIoU in percent, and their labels [H, W].

    The best comes first. Pictures without a scored pixel say nothing and are left out; where all
    are like that, the first one stands alone, with NaN.

    Raises:
        DataError: a picture or its truth is broken.
    """
    words, found = dataset.vocabulary, []
    for sample in dataset[:first]:
        (decision,) = predictor.decide([sample.image], words, dataset.name)
        matrix = ConfusionMatrix(len(words))
        matrix.update(decision.labels, truth_of(sample))
        found.append((matrix.miou(), sample, decision.labels))
    scored = sorted((each for each in found if not math.isnan(each[0])), key=lambda each: -each[0])
    return scored or found[:1]
