"""Pictures read ahead and results written behind, while the method has its turn with others.

Reading and writing are decoders, encoders and the disk, which leave Python's lock alone: threads
are enough. Pictures come out in the order in which they went in, each with what became of it, and
what is in memory at once is bounded by pixels, whatever their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from fmbseg.data.images import MAX_PIXELS, upright_size
from fmbseg.errors import DataError
from fmbseg.predicting.results import Answer

T = TypeVar("T")

_READERS, _WRITERS = 2, 2
# Pictures whose results wait to be written; each holds a label map and a confidence.
_BEHIND = 4


@dataclass(frozen=True)
class Job:
    """A picture of a call.

    Attributes:
        name: of its results.
        path: the picture.
        pixels: that it has; 0 where it cannot be read.
    """

    name: str
    path: Path
    pixels: int


@dataclass(frozen=True)
class Steps:
    """What is done with a picture; each step raises for what it cannot do.

    Attributes:
        read: gives the picture. Called in several threads.
        segment: pictures -> in their order what is said of each, or why nothing is.
        write: writes what is said. Called in several threads.
        batch: pictures that `segment` takes at once.
        most: pixels that a picture may have.
    """

    read: Callable[[Path], Image.Image]
    segment: Callable[[Sequence[tuple[Path, Image.Image]]], Iterator[Answer | Exception]]
    write: Callable[[str, Path, Answer], None]
    batch: int = 1
    most: int = MAX_PIXELS


def overlapped(
    jobs: Mapping[str, Path], steps: Steps, ends: Callable[[Exception], bool]
) -> Generator[tuple[Job, Answer | Exception]]:
    """Do all steps with all pictures.

    When it is left, also by an error, what was handed over to be written is written.

    Args:
        jobs: pictures by the name of their results.
        steps: what is done.
        ends: whether an error ends the call: nothing of later pictures is begun then.

    Yields:
        In the order of the jobs: a picture and what is said of it, once it is written, or the error
        that kept it from that.
    """
    todo = deque(jobs.items())
    ahead: deque[tuple[Job, Future[Image.Image]]] = deque()
    behind: deque[tuple[Job, Future[Answer]]] = deque()
    held = 0  # pixels of pictures that are ahead or behind
    with ThreadPoolExecutor(_WRITERS) as writers, ThreadPoolExecutor(_READERS) as readers:
        try:
            while todo or ahead or behind:
                while todo and len(ahead) < steps.batch + _READERS:
                    job = _looked_at(*todo[0], steps.most)
                    # The largest picture that is read has all the room for itself.
                    if held and held + job.pixels > MAX_PIXELS:
                        break
                    todo.popleft()
                    held += job.pixels
                    ahead.append((job, readers.submit(steps.read, job.path)))
                if behind and (not ahead or len(behind) > _BEHIND or behind[0][1].done()):
                    done, future = behind.popleft()
                    held -= done.pixels
                    written = _outcome(future)
                    yield done, written
                    continue
                batch = [ahead.popleft() for _ in range(min(steps.batch, len(ahead)))]
                for job, found in _segmented(batch, steps):
                    behind.append((job, _handed_over(job, found, steps, writers)))
                    if isinstance(found, Exception) and ends(found):
                        todo.clear()
                        _cancel(ahead)
                        break
        finally:
            _cancel(ahead)


def _cancel(ahead: deque[tuple[Job, Future[Image.Image]]]) -> None:
    while ahead:
        ahead.pop()[1].cancel()


def _looked_at(name: str, path: Path, most: int) -> Job:
    try:
        width, height = upright_size(path, most)[0]
    except (DataError, OSError):
        return Job(name, path, 0)  # reading it says why
    return Job(name, path, width * height)


def _segmented(
    batch: Sequence[tuple[Job, Future[Image.Image]]], steps: Steps
) -> Iterator[tuple[Job, Answer | Exception]]:
    """What is said of each picture of a batch, those that cannot be read among them."""
    pictures, errors = [], {}
    for job, future in batch:
        image = _outcome(future)
        if isinstance(image, Exception):
            errors[job] = image
        else:
            pictures.append((job.path, image))
    answers = steps.segment(pictures)
    for job, _ in batch:
        yield job, errors[job] if job in errors else next(answers)


def _handed_over(
    job: Job, found: Answer | Exception, steps: Steps, writers: ThreadPoolExecutor
) -> Future[Answer]:
    if isinstance(found, Exception):
        failed: Future[Answer] = Future()
        failed.set_exception(found)
        return failed
    answer = found

    def write() -> Answer:
        steps.write(job.name, job.path, answer)
        return answer

    return writers.submit(write)


def _outcome(future: Future[T]) -> T | Exception:
    try:
        return future.result()
    except Exception as error:
        return error
