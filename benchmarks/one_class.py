"""One class named alone, and what it is set against: mean IoU on development scenes.

    python -m benchmarks.one_class [--pictures N] [--seeds 7 8 9] [--methods maskclip pseudo]

Each class that is in the pictures is asked alone, its label map is compared with the truth, and
the IoU is the mean over the classes. Rows: no rest, the words of one of our vocabularies, and those
of all together. The background rules are those of `params.yaml`'s preset and `words`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fmbseg.config import override_config, parse_config
from fmbseg.data import load_dataset
from fmbseg.data.datasets import SegmentationDataset
from fmbseg.data.vocabulary import Vocabulary, VocabularyClass, vocabulary_names
from fmbseg.data.vocabulary.rest import contrasts
from fmbseg.evaluate.methods.predictor import Predictor, load_predictor
from fmbseg.presets import preset
from fmbseg.scenes.files import write_scenes

# Layout, the data set that reads it, and its split.
SETS = (
    ("coco_stuff164k", "coco_stuff", "val2017"),
    ("voc2012", "voc20", "val"),
    ("cityscapes", "cityscapes", "val"),
)
CONTRASTS = ("none", "voc21", "context59", "coco_stuff", "all")
LEAST_PIXELS = 400


def main() -> None:
    """Print a line for each method, rule, contrast and data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--methods", nargs="+", default=["maskclip"])
    given = parser.parse_args()
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            for layout, name, split in SETS:
                root = Path(folder) / layout
                write_scenes(layout, root, train=0, val=given.pictures, development=True, seed=seed)
                compare(load_dataset(name, root, split), given.methods, seed, Path(folder))


def compare(dataset: SegmentationDataset, methods: Sequence[str], seed: int, cache: Path) -> None:
    """Print the figures of one data set."""
    plain = parse_config(preset("tiny"))
    for method in methods:
        for rule in ("probability", "words")[: 1 if method == "pseudo" else 2]:
            config = override_config(plain, [f"evaluate.background_rule={rule}"])
            predictor = load_predictor(method, config, None, cache / "encodings")
            figures = [f"{name} {iou(dataset, predictor, name):.1f}" for name in CONTRASTS]
            print(f"seed {seed} {dataset.name} {method} {rule}: {', '.join(figures)}", flush=True)


def iou(dataset: SegmentationDataset, predictor: Predictor, contrast: str) -> float:
    """Percent, the mean over the classes in the pictures, each asked alone."""
    samples = [(sample.image, np.asarray(sample.label)) for sample in dataset]
    values = []
    for index, name in enumerate(dataset.vocabulary.names):
        truth = [label == index for _, label in samples]
        if sum(int(mask.sum()) for mask in truth) < LEAST_PIXELS:
            continue
        words = asked(name, contrast)
        hits = union = 0
        for (image, label), mask in zip(samples, truth, strict=True):
            (decision,) = predictor.decide([image], words)
            found = (decision.labels == 0) & (label != 255)
            hits, union = hits + int((found & mask).sum()), union + int((found | mask).sum())
        values.append(100 * hits / union if union else 0.0)
    return float(np.mean(values))


def asked(name: str, contrast: str) -> Vocabulary:
    """A class alone, set against the words of a vocabulary, of all, or against nothing."""
    entry = VocabularyClass(name)
    if contrast == "none":
        return Vocabulary("one", (entry,))
    lists = vocabulary_names() if contrast == "all" else (contrast,)
    words = dict.fromkeys(word for each in lists for word in contrasts([name], each))
    return Vocabulary("one", (entry, VocabularyClass("background", tuple(words))), background=1)


if __name__ == "__main__":
    main()
