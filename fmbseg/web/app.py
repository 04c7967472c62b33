"""The server of the page: its files, examples, and the answers, one picture at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from fmbseg.data.images import open_picture, read_image
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError, FmbsegError
from fmbseg.web.answers import PARTS, Answers

_FILES = Path(__file__).parent / "page"
_SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_MEGA = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may wait.

    Attributes:
        megabytes: of an uploaded file.
        megapixels: of a picture.
        names: classes at once.
        waiting: pictures that wait or are at work; more are told to come again.
    """

    megabytes: float = 20.0
    megapixels: float = 12.0
    names: int = 255
    waiting: int = 32


class Refusal(Exception):
    """A request that is not answered: status and one sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Desk:
    """Takes pictures one by one, in the order in which they came.

    Args:
        answers: the models.
        read_words: turns the names that were typed into a vocabulary.
        limits: of requests.
    """

    def __init__(
        self, answers: Answers, read_words: Callable[[str], Vocabulary], limits: Limits
    ) -> None:
        self._answers, self._read_words, self._limits = answers, read_words, limits
        self._one = ThreadPoolExecutor(max_workers=1, thread_name_prefix="segment")
        self._waiting = 0

    async def segment(self, request: Request) -> Response:
        """POST a picture; the query has `classes`, and `part` for each that is wanted."""
        parts = request.query_params.getlist("part")
        if unknown := set(parts) - set(PARTS):
            raise Refusal(400, f"there is no part {', '.join(sorted(unknown))}")
        return JSONResponse(await self._work(request, partial(self._answers.answer, parts=parts)))

    async def coco(self, request: Request) -> Response:
        """POST a picture, get the COCO file of its labels."""
        text = await self._work(request, self._answers.coco)
        named = {"Content-Disposition": 'attachment; filename="labels.json"'}
        return Response(text, media_type="application/json", headers=named)

    async def _work(self, request: Request, answer: Callable[..., Any]) -> Any:
        if self._waiting >= self._limits.waiting:
            raise Refusal(503, f"{self._waiting} pictures are waiting: try again in a moment")
        self._waiting += 1
        try:
            words = self._words(request)
            data = await self._body(request)
            image = await run_in_threadpool(self._image, data)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._one, partial(answer, image, words))
        except FmbsegError as error:
            raise Refusal(400, str(error)) from error
        finally:
            self._waiting -= 1

    def _words(self, request: Request) -> Vocabulary:
        words = self._read_words(request.query_params.get("classes", ""))
        if len(words) > self._limits.names:
            raise Refusal(413, f"{len(words)} names: at most {self._limits.names}")
        return words

    async def _body(self, request: Request) -> bytes:
        most, parts, size = int(self._limits.megabytes * _MEGA), [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise Refusal(413, f"the file has more than {self._limits.megabytes:g} MB")
            parts.append(part)
        return b"".join(parts)

    def _image(self, data: bytes) -> Image.Image:
        if not data:
            raise DataError("there is no picture: choose one")
        with open_picture(data) as image:
            pixels = image.width * image.height / _MEGA
        if pixels > self._limits.megapixels:
            raise Refusal(
                413,
                f"the picture has {pixels:.0f} megapixels: at most {self._limits.megapixels:g}",
            )
        return read_image(data)


def create_app(
    answers: Answers,
    read_words: Callable[[str], Vocabulary],
    suggested: Sequence[str],
    examples: Mapping[str, Path],
    limits: Limits | None = None,
) -> Starlette:
    """The page and what answers it.

    Args:
        answers: the models.
        read_words: turns the names that were typed into a vocabulary; raises VocabularyError.
        suggested: names that stand in the field at first.
        examples: pictures to choose from, by name.
        limits: of requests; None: the usual ones.
    """
    desk = Desk(answers, read_words, limits or Limits())

    async def start(request: Request) -> Response:
        return JSONResponse({"classes": [*suggested], "examples": [*examples]})

    async def example(request: Request) -> Response:
        path = examples.get(request.path_params["name"])
        if path is None:
            raise Refusal(404, "there is no such example")
        return FileResponse(path, headers=_SAFE)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return JSONResponse({"error": str(error)}, status_code=error.status)

    routes = [
        Route("/", partial(_file, "index.html")),
        *(Route(f"/{name}", partial(_file, name)) for name in ("page.css", "page.js")),
        Route("/start", start),
        Route("/examples/{name:path}", example),
        Route("/segment", desk.segment, methods=["POST"]),
        Route("/coco", desk.coco, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={Refusal: refused})


async def _file(name: str, request: Request) -> Response:
    return FileResponse(_FILES / name, headers=_SAFE)
