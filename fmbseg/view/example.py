"""One segmented picture of a benchmark, for people who look at a run."""

from __future__ import annotations

from PIL import Image

from fmbseg.config import Config
from fmbseg.data.datasets import load_dataset
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.store.paths import Paths
from fmbseg.view.overlay import overlay


def example_overlay(config: Config, paths: Paths, benchmark: str) -> Image.Image:
    """The first picture of a benchmark, segmented by the trained head of this workspace.

    Args:
        config: with the benchmark among `evaluate.benchmarks`.
        paths: the workspace.
        benchmark: its name.

    Raises:
        DataError, CheckpointError, WeightsError: as for `Segmenter`.
    """
    entry = config.evaluate.benchmarks[benchmark]
    dataset = load_dataset(benchmark, paths.root / entry.root, entry.split)
    image = dataset[0].image
    segmenter = load_segmenter(
        paths.align, config.evaluate, config.run, text_cache=paths.benchmark_encodings
    )
    found = segmenter.predict(image, vocabulary=dataset.vocabulary)
    vocabulary = dataset.vocabulary
    return overlay(image, found.label_map, found.classes, background=vocabulary.background)
