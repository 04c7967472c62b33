"""One segmented picture of a benchmark, for people who look at a run."""

from __future__ import annotations

from PIL import Image

from fmbseg.data.datasets import SegmentationDataset
from fmbseg.evaluate.methods.predictor import Predictor
from fmbseg.view.overlay import overlay


def example_overlay(predictor: Predictor, dataset: SegmentationDataset) -> Image.Image:
    """The first picture of a benchmark, labelled as it is scored.

    Args:
        predictor: the method.
        dataset: the benchmark.

    Raises:
        DataError: the picture is missing or broken.
    """
    image, vocabulary = dataset[0].image, dataset.vocabulary
    (decision,) = predictor.decide([image], vocabulary, dataset.name)
    return overlay(image, decision.labels, vocabulary.names, background=vocabulary.background)
