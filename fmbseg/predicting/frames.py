"""Videos, one after the other: each frame read, segmented, and drawn into a video of overlays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import count
from pathlib import Path

from PIL import Image

from fmbseg.data.formats import VIDEO_LEGEND, VIDEO_RESULTS
from fmbseg.data.labels import unlabelled
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError, StoreError, shown
from fmbseg.evaluate.methods.predictor import Predictor
from fmbseg.inference.smoothing import Smoothing
from fmbseg.labelling.summary import NO_LABEL, Summary
from fmbseg.machine.progress import Progress
from fmbseg.predicting.results import Answer, Results, Wanted
from fmbseg.predicting.run import Report, answer
from fmbseg.predicting.video import Timing, VideoReader, new_video, open_video
from fmbseg.store.atomic import remove_abandoned
from fmbseg.store.ledger import Ledger
from fmbseg.view.overlay import (
    AT_RANDOM,
    OPACITY,
    PALE,
    above,
    blend,
    colours_of,
    legend,
    note,
    png,
    unpainted,
)

_IN_PICTURE = 24  # classes; a legend of more leaves no room for the frames


class Overlays:
    """Draws frames of one size, with one legend for all of them.

    Args:
        words: the classes.
        pale: see `fmbseg.view.overlay.overlay`.
    """

    def __init__(self, words: Vocabulary, pale: bool = False) -> None:
        self._words = words
        self._pale = pale
        self._colours = colours_of(words.names)
        self._below: Image.Image | None = None

    def draw(self, found: Answer) -> Image.Image:
        """The frame in its classes' colours; of up to 24 classes with the legend below it."""
        words = self._words
        label = unpainted(found.label, words.background, len(words))
        opacity = PALE if self._pale else OPACITY
        picture = blend(found.image, label, self._colours, opacity)
        if self._below is None or self._below.width != picture.width:
            self._below = self._made(picture.width, picture.height)
        return above(picture, self._below)

    def _made(self, width: int, height: int) -> Image.Image:
        below = Image.new("RGB", (width, 0))
        if len(self._words) <= _IN_PICTURE:
            below = _legend(self._words, width, height)
        return above(note(AT_RANDOM, width, height), below) if self._pale else below


def video_endings(words: Vocabulary) -> tuple[str, ...]:
    """Of all files of a video, but for those of its frames."""
    return VIDEO_RESULTS if len(words) <= _IN_PICTURE else (*VIDEO_RESULTS, VIDEO_LEGEND)


def write_legend(ledger: Ledger, name: str, words: Vocabulary) -> None:
    """The legend as a picture of its own, where the frames have no room for one."""
    if len(words) > _IN_PICTURE:
        ledger.write(f"{name}{VIDEO_LEGEND}", png(_legend(words, 960, 0)))


def _legend(words: Vocabulary, width: int, height: int) -> Image.Image:
    rows = [(index, None) for index in range(len(words))]
    return legend(rows, words.names, width, height, words.background)


def predict_videos(
    jobs: Mapping[str, Path],
    predictor: Predictor,
    words: Vocabulary,
    out: Path,
    progress: Progress,
    *,
    smoothing: Smoothing | None = None,
    frames: Wanted | None = None,
    unknown: Callable[[Path], bool] = lambda _: False,
    strict: bool = False,
) -> Report:
    """Segment videos, one frame in memory at a time, and write of each overlays and a record.

    Args:
        jobs: videos by the name of their results.
        predictor: the method.
        words: the classes.
        out: folder of the results.
        progress: advanced by frames.
        smoothing: over the frames of each; None: each frame stands for itself.
        frames: what is written of each frame, into `out/NAME`; None: nothing.
        unknown: see `Results`.
        strict: a video that cannot be read, or a frame of it, ends the call.

    Raises:
        DataError, StoreError: with `strict`.
        OSError: a file cannot be written.
    """
    remove_abandoned(out)  # what a killed call left of its video
    ledger = Ledger(out)
    counted = Summary(words.names)
    done: dict[str, Path] = {}
    failures: list[str] = []
    for name, path in jobs.items():
        if smoothing is not None:
            smoothing.forget()
        each = None if frames is None else Results(out / name, words, frames, unknown)
        try:
            with open_video(path) as video:
                job = _Job(name, path, video, Overlays(words, unknown(path)), words, counted)
                job.run(predictor, ledger, each, progress, smoothing, strict)
            done[name] = path
            failures += job.failures
        except (DataError, StoreError) as error:
            if strict:
                raise
            failures.append(str(error))
    return Report(done, tuple(failures), tuple(counted.rows()), counted.pixels)


class _Job:
    def __init__(
        self,
        name: str,
        path: Path,
        video: VideoReader,
        overlays: Overlays,
        words: Vocabulary,
        counted: Summary,
    ) -> None:
        self.name, self.path, self.video, self.words = name, path, video, words
        self.overlays = overlays
        self.own = Summary(words.names)
        self.all = counted
        self.failures: list[str] = []

    def run(
        self,
        predictor: Predictor,
        ledger: Ledger,
        each: Results | None,
        progress: Progress,
        smoothing: Smoothing | None,
        strict: bool,
    ) -> None:
        video, words, overlays = self.video, self.words, self.overlays
        done, last, size = 0, Fraction(0), (0, 0)
        with ExitStack() as stack:
            place = stack.enter_context(ledger.writing(f"{self.name}{VIDEO_RESULTS[0]}"))
            writer = stack.enter_context(new_video(place, video.timing))
            task = stack.enter_context(progress.task(f"predict {self.name}", video.expected))
            if each is not None:
                each.ledger.folder.mkdir(exist_ok=True)
            for number, frame in enumerate(video.frames()):
                found = answer(frame.image, predictor, words, smoothing)
                self._add(found)
                writer.add(overlays.draw(found), frame.time)
                if each is not None:
                    each.write(f"{number:06d}", self.path, found)
                done, last, size = number + 1, frame.time, found.image.size
                task.advance()
            if video.broken:
                failure = (
                    f"{shown(self.path)}: {video.broken} of {done + video.broken} frames cannot "
                    "be decoded, the others are done"
                )
                if strict:
                    raise DataError(failure)
                self.failures.append(failure)
        write_legend(ledger, self.name, words)
        record = self._record(done, last, size)
        text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
        ledger.write(f"{self.name}{VIDEO_RESULTS[1]}", text.encode())

    def _add(self, found: Answer) -> None:
        means = list(found.means(len(self.words)))
        for summary in (self.own, self.all):
            summary.add(found.label, means)

    def _record(self, frames: int, last: Fraction, size: tuple[int, int]) -> dict[str, object]:
        rate = self.video.timing.rate
        return {
            "video": shown(self.path),
            "width": size[0],
            "height": size[1],
            "frames": frames,
            "broken": self.video.broken,
            "frames_per_second": round(float(rate), 6),
            "seconds": round(float(last + 1 / rate), 6),
            "classes": [*self.words.names],
            "background": self.words.background,
            "areas": [
                {
                    "class": row.name,
                    "index": self._index(row.name),
                    "frames": row.images,
                    "share": round(row.area, 6),
                    "confidence": None if row.similarity is None else round(row.similarity, 6),
                }
                for row in self.own.rows()
                if row.images
            ],
        }

    def _index(self, name: str) -> int:
        return unlabelled(len(self.words)) if name == NO_LABEL else self.words.names.index(name)


@contextmanager
def video_of_pictures(
    ledger: Ledger, name: str, words: Vocabulary, rate: Fraction, pale: bool = False
) -> Iterator[Callable[[Answer], None]]:
    """What makes a video of the overlays of pictures of one size, see `predict_pictures`.

    Args:
        ledger: of the folder where it is written.
        name: of the video.
        words: the classes.
        rate: pictures a second.
        pale: see `fmbseg.view.overlay.overlay`.
    """
    overlays = Overlays(words, pale)
    with (
        ledger.writing(f"{name}{VIDEO_RESULTS[0]}") as place,
        new_video(place, Timing(rate, 1 / rate)) as writer,
    ):
        numbers = count()

        def add(found: Answer) -> None:
            writer.add(overlays.draw(found), next(numbers) / rate)

        yield add
        if writer.size is None:
            raise DataError("no picture is done: there is no video of them")
    write_legend(ledger, name, words)
