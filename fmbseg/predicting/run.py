"""Pictures, one after the other: read, segmented, written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.data.formats import PREDICTED
from fmbseg.data.images import read_image
from fmbseg.data.labels import as_label
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError, StoreError, may_pass
from fmbseg.evaluate.methods.predictor import Predictor
from fmbseg.inference.smoothing import Smoothing
from fmbseg.labelling.summary import ClassSummary, Summary, sheet
from fmbseg.machine.progress import Progress
from fmbseg.predicting.results import Answer, Results
from fmbseg.view.overlay import png

SHEET = "sheet.png"


@dataclass(frozen=True)
class Report:
    """What became of the pictures of a call.

    Attributes:
        done: those that were written, by the name of their results.
        failures: why others were not.
        summary: a row a class, with the mean confidence of its pixels.
        pixels: [K] of each class.
    """

    done: Mapping[str, Path]
    failures: tuple[str, ...]
    summary: tuple[ClassSummary, ...]
    pixels: npt.NDArray[np.int64]


def predict_pictures(
    jobs: Mapping[str, Path],
    predictor: Predictor,
    words: Vocabulary,
    results: Results,
    progress: Progress,
    *,
    smoothing: Smoothing | None = None,
    also: Callable[[Answer], None] | None = None,
    strict: bool = False,
) -> Report:
    """Segment pictures and write the results of each, and a sheet of some.

    Args:
        jobs: pictures by the name of their results.
        predictor: the method.
        words: the classes.
        results: where they go.
        progress: advanced by pictures.
        smoothing: the pictures are frames in their order; None: each stands for itself.
        also: takes what is said of each picture, too; None: nothing does.
        strict: the first picture that cannot be read or written ends the call.

    Raises:
        DataError, StoreError, OSError: with `strict`; OSError too where no try would help.
    """
    counted = Summary(words.names)
    done: dict[str, Path] = {}
    failures: list[str] = []
    folder: Path | None = None
    with progress.task("predict", len(jobs)) as task:
        for name, path in jobs.items():
            if smoothing is not None and path.parent != folder:
                smoothing.forget()
            folder = path.parent
            try:
                found = answer(read_image(path), predictor, words, smoothing)
                results.write(name, path, found)
                if also is not None:
                    also(found)
                counted.add(found.label, found.means(len(words)))
                done[name] = path
            except (DataError, StoreError) as error:
                if strict:
                    raise
                failures.append(str(error))
            except OSError as error:
                if strict or not may_pass(error):
                    raise
                failures.append(f"{path}: {error.strerror or error}, run it again")
            task.advance()
    if done:
        out = results.ledger.folder
        shown = [(name, path, out / f"{name}{PREDICTED}") for name, path in done.items()]
        pale = any(map(results.unknown, done.values()))
        results.ledger.write(SHEET, png(sheet(shown, words, pale)))
    return Report(done, tuple(failures), tuple(counted.rows()), counted.pixels)


def answer(
    image: Image.Image,
    predictor: Predictor,
    words: Vocabulary,
    smoothing: Smoothing | None = None,
) -> Answer:
    """What a method says of one RGB image; `smoothing`: of the next frame of a video."""
    (found,) = predictor.segment([image], words, smoothing=smoothing)
    return Answer(image, as_label(found.decision.labels, len(words)), found.confidence())
