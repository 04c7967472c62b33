"""What is written of a picture: overlay, label map, record, and on demand scores and outlines."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.data.formats import CONTOURS, RESULTS, SCORES_NPZ, SCORES_PNG
from fmbseg.data.images import MAX_PIXELS
from fmbseg.data.labels import Label
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import shown
from fmbseg.pseudo.labels import label_png
from fmbseg.store.ledger import Ledger
from fmbseg.view.overlay import area_shares, overlay, png

ScoresForm = Literal["png", "npz"]
_BAND_PIXELS = 1 << 24
_LARGE_SIDE = 4096  # about the long side of the overlay of a picture that only tiles are enough for
_DEEPEST = 65535  # of a 16-bit PNG: a probability of 1


@dataclass(frozen=True)
class Wanted:
    """What is written beside overlay, label map and record.

    Attributes:
        scores: how sure each pixel's label is: as a 16-bit PNG, where 65535 is a probability of 1,
            or as a NumPy archive with float32 `confidence`; None: not.
        contours: the outlines of the regions.
    """

    scores: ScoresForm | None = None
    contours: bool = False

    @property
    def endings(self) -> tuple[str, ...]:
        """Of all files of a picture."""
        scores = {"png": (SCORES_PNG,), "npz": (SCORES_NPZ,), None: ()}[self.scores]
        return (*RESULTS, *scores, *((CONTOURS,) if self.contours else ()))


@dataclass(frozen=True)
class Answer:
    """What a method said of one picture of H x W pixels.

    Attributes:
        image: RGB.
        label: [H, W] class indices.
        confidence: [H, W] float32, 0 to 1, of each label.
    """

    image: Image.Image
    label: Label
    confidence: npt.NDArray[np.float32]

    def means(self, classes: int) -> Iterator[tuple[int, float, int]]:
        """Each class in the picture, its mean confidence, and its pixels."""
        pixels, sums = np.zeros(classes, dtype=np.int64), np.zeros(classes)
        # In bands: a picture of a hundred megapixels would take gigabytes at once.
        rows = max(1, _BAND_PIXELS // self.label.shape[1])
        for top in range(0, len(self.label), rows):
            label, confidence = self.label[top : top + rows], self.confidence[top : top + rows]
            inside = label < classes
            labels, values = label[inside], confidence[inside]
            pixels += np.bincount(labels, minlength=classes)
            sums += np.bincount(labels, weights=values, minlength=classes)
        for index in np.flatnonzero(pixels).tolist():
            yield index, float(sums[index] / pixels[index]), int(pixels[index])


class Results:
    """Writes into a folder what is said of pictures.

    Args:
        folder: where; files that fmbseg did not write are never replaced.
        words: the classes.
        wanted: what is written.
        unknown: which pictures are nothing that the models know: their overlays are pale.
    """

    def __init__(
        self,
        folder: Path,
        words: Vocabulary,
        wanted: Wanted,
        unknown: Callable[[Path], bool] = lambda _: False,
    ) -> None:
        self.ledger = Ledger(folder)
        self._words = words
        self._wanted = wanted
        self.unknown = unknown

    def write(self, name: str, path: Path, answer: Answer) -> None:
        """Write the files of the picture `path`.

        Raises:
            StoreError: there is another file of one of the names.
        """
        contents = (self._overlay, self._label, self._record, *self._more())
        for ending, content in zip(self._wanted.endings, contents, strict=True):
            self.ledger.write(f"{name}{ending}", content(path, answer))

    def _more(self) -> Iterator[Any]:
        if self._wanted.scores is not None:
            yield {"png": _scores_png, "npz": _scores_npz}[self._wanted.scores]
        if self._wanted.contours:
            yield self._contours

    def _overlay(self, path: Path, answer: Answer) -> bytes:
        words = self._words
        pale = self.unknown(path)
        image, label = answer.image, answer.label
        if image.width * image.height > MAX_PIXELS:  # no screen shows it, and few programs open it
            smaller = max(2, max(image.size) // _LARGE_SIDE)
            image = image.reduce(smaller)
            label = label[smaller // 2 :: smaller, smaller // 2 :: smaller]
            image = image.crop((0, 0, label.shape[1], label.shape[0]))
        return png(overlay(image, label, words.names, words.background, pale=pale))

    def _label(self, path: Path, answer: Answer) -> bytes:
        return label_png(answer.label)

    def _record(self, path: Path, answer: Answer) -> bytes:
        names, label = self._words.names, answer.label
        means = {index: (mean, pixels) for index, mean, pixels in answer.means(len(names))}
        areas = [
            {
                "class": names[index],
                "index": index,
                "pixels": means[index][1],
                "share": round(share, 6),
                "confidence": round(means[index][0], 6),
            }
            for index, share in area_shares(label, len(names))
            if index in means
        ]
        record = {
            "image": shown(path),
            "width": label.shape[1],
            "height": label.shape[0],
            "classes": [*names],
            "background": self._words.background,
            "areas": areas,
        }
        return _json(record, indent=2)

    def _contours(self, path: Path, answer: Answer) -> bytes:
        # Of the exports: they need more than a prediction does.
        from fmbseg.export.polygons import polygon
        from fmbseg.export.regions import regions
        from fmbseg.export.source import NOTHING, Classes

        words = self._words
        label = answer.label.astype(np.int32)
        label[label >= len(words)] = NOTHING
        found = [
            {
                "class": words.names[region.class_index],
                "index": region.class_index,
                "pixels": region.area,
                "box": list(region.box),
                "polygon": polygon(region).tolist(),
            }
            for region in regions(label, Classes(words.names, words.background))
        ]
        return _json(found)


def _scores_png(path: Path, answer: Answer) -> bytes:
    values = np.rint(answer.confidence.clip(0, 1) * _DEEPEST).astype(np.uint16)
    return png(Image.fromarray(values))


def _scores_npz(path: Path, answer: Answer) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, confidence=answer.confidence)
    return stream.getvalue()


def _json(content: Any, indent: int | None = None) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=indent) + "\n").encode()
