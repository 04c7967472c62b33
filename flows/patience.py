"""Waiting for Prefect's server: one that is away, restarted, slow or broken for a while.

Work goes on where it needs no server. Where it does, Prefect's client asks again for eight minutes
(`flows.ASK_AGAIN`), which it says nowhere a user would look; here it is said.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES
from prefect.settings import temporary_settings as settings

from fmbseg.errors import one_line

T = TypeVar("T")
_log = logging.getLogger("fmbseg.flows")
_LONGEST = 30.0  # seconds between two tries
_PATIENCE = 480.0
CONNECTION = (
    *(httpx.TimeoutException, httpx.NetworkError),
    *(httpx.RemoteProtocolError, httpx.ProxyError),
)
"""What a connection that fails raises; none of it is an OSError."""


def is_away(error: BaseException | None) -> bool:
    """Whether an error says that a server is away or broken, and not what was asked of it."""
    while error is not None:
        if isinstance(error, CONNECTION):
            return True
        if isinstance(error, httpx.HTTPStatusError):
            return error.response.status_code >= 500
        error = error.__cause__
    return False


def patiently(what: str, call: Callable[[], T]) -> T:
    """What a call returns, tried again for eight minutes while the server is away.

    Args:
        what: is waited for, for the messages.
        call: asks the server.
    """
    begin, delay = time.monotonic(), 2.0
    while True:
        try:
            return call()
        except Exception as error:
            if not is_away(error) or time.monotonic() - begin > _PATIENCE:
                raise
            reason = one_line(error)
        _log.warning("%s waits for Prefect's server: again in %.0f s (%s)", what, delay, reason)
        time.sleep(delay)
        delay = min(2 * delay, _LONGEST)


@contextmanager
def hastily() -> Iterator[None]:
    """Calls that must not keep the work waiting: asked once, given up after five seconds."""
    with settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: 5.0}):
        yield


def _said(record: logging.LogRecord) -> bool:
    """Makes a warning of what Prefect's client says of another try; drops the rest of its DEBUG."""
    if record.levelno > logging.DEBUG:
        return True
    text = record.getMessage()
    if "Another attempt will be made in" not in text:
        return False
    seconds = text.partition("made in ")[2].partition("s.")[0]
    record.levelno, record.levelname, record.exc_info = logging.WARNING, "WARNING", None
    record.msg = "Prefect's server does not answer as it should: asked again in %.0f s"
    record.args = (float(seconds),)
    return True


_client = logging.getLogger("prefect.client")
_client.setLevel(logging.DEBUG)
_client.addFilter(_said)
