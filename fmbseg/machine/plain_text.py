"""What is printed and logged: names in it, whoever gave them, steer no terminal."""

from __future__ import annotations

import io
import logging
from typing import TextIO, cast

from fmbseg.errors import plain


class PlainText(io.TextIOWrapper):
    """A text stream in another's place, which escapes control characters; see `plain`."""

    def __init__(self, stream: TextIO) -> None:
        self._replaced = stream  # which would close what it writes to when it is forgotten
        super().__init__(
            cast(io.BufferedWriter, stream.buffer),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.isatty(),
        )

    def write(self, text: str) -> int:
        """See `io.TextIOWrapper`."""
        super().write(plain(text))
        return len(text)


class PlainFormatter(logging.Formatter):
    """A formatter of records whose lines are `plain`."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return plain(super().format(record))
