"""Pictures in their order: read, segmented, written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.data.formats import PREDICTED
from fmbseg.data.images import MAX_PIXELS, MAX_TILED_PIXELS, read_image
from fmbseg.data.labels import as_label
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError, StoreError, may_pass
from fmbseg.evaluate.methods.predictor import Predictor
from fmbseg.inference.smoothing import Smoothing
from fmbseg.inference.tiles import Tiling
from fmbseg.labelling.summary import ClassSummary, Summary, sheet
from fmbseg.machine.progress import Progress
from fmbseg.predicting.overlap import Steps, overlapped
from fmbseg.predicting.results import Answer, Results
from fmbseg.view.overlay import png

SHEET = "sheet.png"
# Errors that belong to one picture.
SINGLE = (DataError, StoreError, OSError)


@dataclass(frozen=True)
class Report:
    """What became of the pictures of a call.

    Attributes:
        done: those that were written, by the name of their results.
        failures: why others were not.
        summary: a row a class, with the mean confidence of its pixels.
        pixels: [K] of each class.
        on_sheet: whether there is a sheet of some of them.
    """

    done: Mapping[str, Path]
    failures: tuple[str, ...]
    summary: tuple[ClassSummary, ...]
    pixels: npt.NDArray[np.int64]
    on_sheet: bool = False


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
    batch: int = 1,
    tiling: Tiling | None = None,
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
        strict: the first picture that cannot be read or written ends the call; one that cannot be
            written is noticed when the next ones are under way.
        batch: pictures that the method takes at once; one of its own for each, where they are
            frames or go by tiles.
        tiling: how each is cut, see `segment_tiles`; None: not at all.

    Raises:
        DataError, StoreError, OSError: with `strict`; OSError too where no try would help.
    """
    counted = Summary(words.names)
    done: dict[str, Path] = {}
    viewable: dict[str, Path] = {}  # those that are not for tiles alone
    failures: list[str] = []
    method = _Method(predictor, words, smoothing, tiling)
    steps = Steps(
        partial(read_image, most=method.most),
        method.segment,
        results.write,
        1 if smoothing is not None or tiling is not None else batch,
        method.most,
    )

    def ends(error: Exception) -> bool:
        return strict or (isinstance(error, OSError) and not may_pass(error))

    with (
        progress.task("predict", len(jobs)) as task,
        closing(overlapped(jobs, steps, ends)) as outcomes,
    ):
        for job, found in outcomes:
            try:
                if isinstance(found, Exception):
                    raise found
                if also is not None:
                    also(found)
                counted.add(found.label, found.means(len(words)))
                done[job.name] = job.path
                if job.pixels <= MAX_PIXELS:
                    viewable[job.name] = job.path
            except SINGLE as error:
                if ends(error):
                    raise
                failures.append(_said(job.path, error))
            task.advance()
    if viewable:
        out = results.ledger.folder
        shown = [(name, path, out / f"{name}{PREDICTED}") for name, path in viewable.items()]
        pale = any(map(results.unknown, done.values()))
        results.ledger.write(SHEET, png(sheet(shown, words, pale)))
    on_sheet = bool(viewable)
    return Report(done, tuple(failures), tuple(counted.rows()), counted.pixels, on_sheet)


def _said(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{path}: {error.strerror or error}, run it again"
    return str(error)


class _Method:
    """The method, asked for pictures as they come."""

    def __init__(
        self,
        predictor: Predictor,
        words: Vocabulary,
        smoothing: Smoothing | None,
        tiling: Tiling | None,
    ) -> None:
        self._predictor, self._words = predictor, words
        self._smoothing, self._tiling = smoothing, tiling
        self._folder: Path | None = None
        self.most = MAX_PIXELS if tiling is None else MAX_TILED_PIXELS

    def segment(self, pictures: Sequence[tuple[Path, Image.Image]]) -> Iterator[Answer | Exception]:
        """What is said of each picture, or the error that belongs to it alone."""
        count = 0
        if len(pictures) > 1:
            images = [image for _, image in pictures]
            try:
                for found in answers(images, self._predictor, self._words):
                    yield found
                    count += 1
            except SINGLE:
                pass  # one of the rest: each by itself says which
        for path, image in pictures[count:]:
            try:
                yield self._one(path, image)
            except SINGLE as error:
                yield error

    def _one(self, path: Path, image: Image.Image) -> Answer:
        if self._tiling is not None:
            tiled = self._predictor.tiled(image, self._words, self._tiling)
            return Answer(image, tiled.label, tiled.confidence)
        if self._smoothing is not None and path.parent != self._folder:
            self._smoothing.forget()
        self._folder = path.parent
        return answer(image, self._predictor, self._words, self._smoothing)


def answers(
    images: Sequence[Image.Image],
    predictor: Predictor,
    words: Vocabulary,
    smoothing: Smoothing | None = None,
) -> Iterator[Answer]:
    """What a method says of RGB images; `smoothing`: of the next frames of a video."""
    found = predictor.segment(images, words, smoothing=smoothing)
    for image, each in zip(images, found, strict=True):
        yield Answer(image, as_label(each.decision.labels, len(words)), each.confidence())


def answer(
    image: Image.Image,
    predictor: Predictor,
    words: Vocabulary,
    smoothing: Smoothing | None = None,
) -> Answer:
    """What a method says of one RGB image; `smoothing`: of the next frame of a video."""
    (found,) = answers([image], predictor, words, smoothing)
    return found
