"""What an exported model costs: mIoU, time and size of torch, ONNX and int8, on development scenes.

    python -m benchmarks.exported --checkpoint data/align

All three are scored by the harness that scores every method: same pictures, same background rule,
pixels counted at their own size. Time is processor time of a picture on one thread, from the
resized pixels to the cosines of patches with words; the three take turns at each picture, and the
least of several rounds counts, because the machine may be shared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fmbseg.config import RunSection
from fmbseg.data.datasets import load_dataset
from fmbseg.data.vocabulary import Vocabulary, load_vocabulary
from fmbseg.deploy.export import export_model
from fmbseg.deploy.graph import SegmenterGraph
from fmbseg.deploy.onnx_file import open_session, similarity
from fmbseg.evaluate.benchmark import count_pixels
from fmbseg.evaluate.methods.predictor import Predictor
from fmbseg.inference.decision import Found, confidence, decide
from fmbseg.inference.maps import Maps
from fmbseg.inference.segmenter import Segmenter, load_segmenter
from fmbseg.inference.smoothing import Smoothing
from fmbseg.models.backbone import resize_for_encoder
from fmbseg.models.text import TextEmbeddings
from fmbseg.scenes.files import write_scenes

Pixels = npt.NDArray[np.uint8]
Ask = Callable[[Pixels, npt.NDArray[np.float32]], npt.NDArray[np.float32]]
VOCABULARIES = {"voc21": "voc2012", "cityscapes": "cityscapes", "coco_stuff": "coco_stuff164k"}
SPLITS = {"voc21": "val", "cityscapes": "val", "coco_stuff": "val2017"}
SCENES, SEEDS = 30, (0, 30, 60)  # of each seed's development scenes
ROUNDS = 7


class Graph(Predictor):
    """A `Predictor`: whole pictures through a graph, decided as `Segmenter` decides.

    Args:
        segmenter: whose head was exported.
        ask: pixels [N, H, W, 3] and texts [Q, D] -> cosines [N, Q, h, w].
    """

    def __init__(self, segmenter: Segmenter, ask: Ask) -> None:
        self._segmenter = segmenter
        self._ask = ask

    def segment(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
        smoothing: Smoothing | None = None,
    ) -> Iterator[Found]:
        """See `Predictor`; nothing is smoothed."""
        text = self._segmenter.text(vocabulary)
        for image in images:
            yield self._found(image, vocabulary, text)

    def _found(self, image: Image.Image, words: Vocabulary, text: TextEmbeddings) -> Found:
        pixels = resized(image, self._segmenter)
        found = torch.from_numpy(self._ask(pixels, text.queries.numpy())[0])
        index = text.query_class[:, None, None].expand(found.shape)
        best = found.new_full((len(text), *found.shape[1:]), -2).scatter_reduce(
            0, index, found, "amax"
        )
        maps = Maps(best, torch.arange(len(text)))
        size = image.height, image.width
        section = self._segmenter.inference
        decision = decide(maps, size, words, section)
        return Found(decision, partial(confidence, maps, decision, section))

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`; no result file is written."""
        return {}


def resized(image: Image.Image, segmenter: Segmenter) -> Pixels:
    """[1, H, W, 3], as the encoder takes it."""
    side = segmenter.inference.short_side
    return resize_for_encoder(image, side, segmenter.backbone)[None]


def exports(segmenter: Segmenter, words: Vocabulary, folder: Path) -> dict[str, tuple[Ask, int]]:
    """What is compared: how it is asked, and the bytes it takes."""
    head = segmenter.checkpoint.head
    graph = SegmenterGraph(segmenter.backbone, head, segmenter.projection(words))
    weights = sum(each.numel() * each.element_size() for each in graph.state_dict().values())

    @torch.no_grad()
    def by_torch(pixels: Pixels, text: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = graph(
            torch.from_numpy(pixels), torch.from_numpy(text)
        ).numpy()
        return found

    found: dict[str, tuple[Ask, int]] = {"torch": (by_torch, weights)}
    for name, int8 in (("ONNX", False), ("ONNX, int8", True)):
        made = export_model(segmenter, words, folder / f"{name}-{words.name}.onnx", int8=int8)
        session = open_session(made.model.read_bytes(), threads=1)
        found[name] = (lambda pixels, text, to=session: similarity(to, pixels, text)), made.size
    return found


def milliseconds(
    asks: dict[str, Ask], pictures: Sequence[Pixels], text: npt.NDArray[np.float32]
) -> dict[str, float]:
    """The mean over pictures of the least processor time of several rounds."""
    least = {name: [float("inf")] * len(pictures) for name in asks}
    for _ in range(ROUNDS):
        for index, pixels in enumerate(pictures):
            for name, ask in asks.items():
                before = time.process_time()
                ask(pixels, text)
                spent = time.process_time() - before
                least[name][index] = min(least[name][index], spent)
    return {name: 1000 * float(np.mean(times)) for name, times in least.items()}


def main() -> None:
    """Print a line a vocabulary and form: mIoU of each seed, ms, MB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("data/align"))
    checkpoint = parser.parse_args().checkpoint
    run = RunSection(device="cpu", dtype="float32", threads=1)
    segmenter = load_segmenter(checkpoint, run=run)
    with tempfile.TemporaryDirectory() as name:
        for vocabulary, layout in VOCABULARIES.items():
            words = load_vocabulary(vocabulary)
            forms = exports(segmenter, words, Path(name))
            sets = []
            for seed in SEEDS:
                root = Path(name) / f"{layout}-{seed}"
                write_scenes(layout, root, train=0, val=SCENES, seed=seed, development=True)
                sets.append(load_dataset(vocabulary, root, SPLITS[vocabulary])[:SCENES])
            pictures = [resized(sample.image, segmenter) for sample in sets[0][:10]]
            text = segmenter.text(words).queries.numpy()
            spent = milliseconds({key: ask for key, (ask, _) in forms.items()}, pictures, text)
            for key, (ask, size) in forms.items():
                predictor = Graph(segmenter, ask)
                counts = [count_pixels(predictor, each, words) for each in sets]
                scores = " ".join(f"{each.all.miou():5.1f}" for each in counts)
                print(
                    f"{vocabulary:10} {key:10} {scores}  {spent[key]:6.1f} ms {size / 1e6:5.1f} MB"
                )


if __name__ == "__main__":
    main()
