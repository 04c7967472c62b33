"""What the page is told of a picture: labels, how sure they are, and what led to them."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.palette import palette
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.evaluate.methods.predictor import Predictor, load_predictor
from fmbseg.export import FORMATS
from fmbseg.export.source import Classes, LabelledImage, Source
from fmbseg.export.writer import Options, export
from fmbseg.inference.decision import confidence
from fmbseg.inference.segmenter import Segmenter
from fmbseg.inference.words import Words
from fmbseg.machine.progress import silent_progress
from fmbseg.pseudo.detection import looked_for
from fmbseg.pseudo.encodings import ImageEncoder
from fmbseg.pseudo.labels import label_png
from fmbseg.pseudo.pipeline import label_image
from fmbseg.view.overlay import area_shares, png

STAGE_1, BEFORE = "stage1", "before"
PARTS = (STAGE_1, BEFORE)
"""What can be asked for besides the labels."""

Answer = dict[str, Any]


class Answers:
    """The models behind the page; CLIP's image tower and SAM are loaded when they are asked for.

    Args:
        segmenter: the trained head.
        config: sections of stage 1, and how CLIP alone is asked.
    """

    def __init__(self, segmenter: Segmenter, config: Config) -> None:
        self._segmenter, self._config = segmenter, config

    def answer(self, image: Image.Image, words: Vocabulary, parts: Sequence[str]) -> Answer:
        """Segment a picture.

        Args:
            image: RGB.
            words: the classes.
            parts: of `PARTS`.

        Returns:
            JSON values. `classes` (name, index, colour, share of the pixels, mean probability),
            `label` and `probability` (grey PNGs in base64: class index, 255 unlabelled;
            probability of the class times 255), `png` (the label map with its palette), and of the
            parts: `before` (a grey PNG, by CLIP's own patches), `stage1` (`label`, a grey PNG, and
            `points`: class index and [x, y] of its query points).
        """
        label, probability = self._segmented(image, words)
        colours = ["#" + bytes(colour).hex() for colour in palette(len(words)).tolist()]
        found: Answer = {
            "width": image.width,
            "height": image.height,
            "classes": [
                {
                    "name": words.names[index],
                    "index": index,
                    "colour": colours[index],
                    "share": round(share, 6),
                    "probability": round(float(probability[label == index].mean()), 4),
                }
                for index, share in area_shares(label, len(words))
                if index != UNLABELLED
            ],
            "names": [*words.names],
            "colours": colours,
            "background": words.background,
            "label": _grey(label),
            "probability": _grey(np.round(255 * probability)),
            "png": _text(label_png(label.astype(np.uint8))),
        }
        if BEFORE in parts:
            (decision,) = self._clip.decide([image], words)
            found[BEFORE] = _grey(decision.labels)
        if STAGE_1 in parts:
            found[STAGE_1] = self._stage_1(image, words)
        return found

    def coco(self, image: Image.Image, words: Vocabulary) -> str:
        """The labels as a COCO instances file, as `fmbseg export coco` writes it."""
        label, _ = self._segmented(image, words)
        with tempfile.TemporaryDirectory(prefix="fmbseg-") as name:
            folder = Path(name)
            (folder / "picture.png").write_bytes(png(image))
            (folder / "label.png").write_bytes(label_png(label.astype(np.uint8)))
            one = LabelledImage("picture", folder / "picture.png", folder / "label.png")
            source = Source(Classes.of(words.names, words.background), (one,))
            export(
                FORMATS["coco"], source, folder / "coco", silent_progress(), Options(source.classes)
            )
            return (folder / "coco" / "annotations" / "instances.json").read_text(encoding="utf-8")

    def _segmented(
        self, image: Image.Image, words: Vocabulary
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Label map [H, W], and how probable each label [H, W] is."""
        ((found, decision),) = self._segmenter.segment([image], words)
        return decision.labels, confidence(found, decision, self._segmenter.inference)

    def _stage_1(self, image: Image.Image, words: Vocabulary) -> Answer:
        encoder = self._encoder
        encodings = encoder.encode(image)
        text = looked_for(self._words.of(words.widened), self._config.detection)
        found = label_image(encodings, encoder.sam.model, text, self._config)
        points = zip(found.detections.classes.tolist(), found.points.tolist(), strict=True)
        return {
            "label": _grey(found.label),
            "points": [{"index": index, "points": places} for index, places in points],
        }

    @cached_property
    def _clip(self) -> Predictor:
        return load_predictor("maskclip", self._config)

    @cached_property
    def _encoder(self) -> ImageEncoder:
        return ImageEncoder(self._config, None, self._segmenter.device)

    @cached_property
    def _words(self) -> Words:
        return Words(self._encoder.clip.model, self._config.clip.templates)


def _grey(values: npt.NDArray[Any]) -> str:
    """[H, W] of 0 to 255 as a grey PNG in base64."""
    return _text(png(Image.fromarray(values.astype(np.uint8))))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
