"""Results beside truth, a row a benchmark (after Figure 4 of the paper)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from fmbseg.data.vocabulary import Vocabulary
from fmbseg.evaluate.benchmark import truth_of
from fmbseg.evaluate.examples import examples
from fmbseg.evaluate.results import EXAMPLES
from fmbseg.figures.canvas import head_row, panels, show, write
from fmbseg.figures.studio import Studio
from fmbseg.view.overlay import blend, colours_of, unpainted

_METHODS = ("maskclip", "pseudo", "fmbseg")


def draw(studio: Studio) -> Figure:
    """Picture, truth, and the labels of each method, of a middling picture a benchmark."""
    benchmarks = studio.benchmarks
    figure, axes = panels(len(benchmarks), 2 + len(_METHODS))
    predictors = {name: studio.predictor(name) for name in _METHODS}
    for line, name in zip(axes, benchmarks, strict=True):
        dataset = studio.benchmark(name)
        words = dataset.vocabulary
        names = studio.result(name)[EXAMPLES]
        (sample,) = examples(dataset, [names[len(names) // 2]])
        image, truth = sample.image, truth_of(sample)
        show(line[0], np.asarray(image))
        write(line[0].set_ylabel, name)
        show(line[1], painted(image, truth, words))
        for panel, method in zip(line[2:], _METHODS, strict=True):
            (decision,) = predictors[method].decide([image], words, name)
            show(panel, painted(image, decision.labels, words))
    head_row(axes, ("picture", "truth", *_METHODS))
    return figure


def painted(image: Image.Image, label: npt.NDArray[np.integer], words: Vocabulary) -> Image.Image:
    """An image under its label map [H, W], as overlays show it."""
    return blend(image, unpainted(label, words.background, len(words)), colours_of(words.names))
