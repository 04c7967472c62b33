"""Pictures of a benchmark as they are scored: a good, a middling and a bad one, with truth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from PIL import Image

from fmbseg.data.datasets import Sample, SegmentationDataset
from fmbseg.errors import DataError
from fmbseg.evaluate.benchmark import truth_of
from fmbseg.evaluate.methods.predictor import Predictor
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.evaluate.results import LOOKED_AT
from fmbseg.view.sheet import label_sheet


def example_sheet(
    predictor: Predictor, dataset: SegmentationDataset, names: Sequence[str]
) -> Image.Image:
    """A row a picture: image, truth, result.

    Args:
        predictor: labels them as they are scored.
        dataset: with labels.
        names: of pictures, the best first; see `chosen_examples`.

    Returns:
        RGB, with one legend for all.

    Raises:
        DataError: a picture is not there, or it or its truth is broken.
    """
    words, panels = dataset.vocabulary, []
    for sample in examples(dataset, names):
        image, truth = sample.image, truth_of(sample)
        (decision,) = predictor.decide([image], words, dataset.name)
        matrix = ConfusionMatrix(len(words))
        matrix.update(decision.labels, truth)
        miou = matrix.miou()
        panels += [(sample.image_id, image, None), ("truth", image, truth)]
        said = "result" if math.isnan(miou) else f"result: {miou:.0f} % mIoU"
        panels.append((said, image, decision.labels))
    return label_sheet(panels, words.names, words.background)


def examples(dataset: SegmentationDataset, names: Sequence[str]) -> Iterator[Sample]:
    """The pictures that a result names, in its order; raises DataError where one is not there."""
    first = {sample.image_id: sample for sample in dataset[:LOOKED_AT]}
    for name in names:
        if name not in first:
            raise DataError(f"{dataset.name} has no picture {name} any more: score it again")
        yield first[name]
