"""Prefect's server for this machine alone: `python -m flows.server start --host ... --port ...`.

Prefect's own `server start` answers any page that is open in a browser of this machine. Here a
request must name the server as it is called (Host), and one that a page sends must come from the
server's own pages (Origin). The password is Prefect's own, `PREFECT_SERVER_API_AUTH_STRING`.
"""

from __future__ import annotations

import argparse
import os

import uvicorn
from prefect.settings import (
    PREFECT_SERVER_API_KEEPALIVE_TIMEOUT,
    PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
    PREFECT_SERVER_LOGGING_LEVEL,
)
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

#: Names that the server is called by, apart from those in `FMBSEG_PREFECT_HOSTS`.
LOOPBACK = ("127.0.0.1", "localhost")


class SameOrigin:
    """Refuses requests that a page of another origin sends.

    Args:
        app: answers the others; the Host header is to be checked before.
        allowed: further origins, such as `http://localhost:4200`.
    """

    def __init__(self, app: ASGIApp, allowed: frozenset[str] = frozenset()) -> None:
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origin, host = headers.get("origin"), headers.get("host", "")
            own = {f"http://{host}", f"https://{host}", *self._allowed}
            if origin is not None and origin not in own:
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008})
                    return
                refusal = PlainTextResponse("Cross-origin request refused", status_code=403)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def guarded(app: ASGIApp, hosts: frozenset[str], origins: frozenset[str]) -> ASGIApp:
    """An application that answers under its own names and to its own pages alone.

    Args:
        app: the application.
        hosts: its names, without ports.
        origins: origins besides its own; `*` is none.
    """
    same = SameOrigin(app, origins - {"*"})
    return TrustedHostMiddleware(same, allowed_hosts=sorted(hosts), www_redirect=False)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m flows.server", description=__doc__)
    parser.add_argument("action", choices=["start"])
    parser.add_argument("--host", default=LOOPBACK[0])
    parser.add_argument("--port", type=int, default=4200)
    options = parser.parse_args()
    named = os.environ.get("FMBSEG_PREFECT_HOSTS", "").split(",")
    origins = PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value().split(",")

    from prefect.server.api.server import create_app

    uvicorn.run(
        guarded(
            create_app(final=True),
            frozenset({*LOOPBACK, *(name.strip() for name in named if name.strip())}),
            frozenset(origin.strip() for origin in origins),
        ),
        host=options.host,
        port=options.port,
        timeout_keep_alive=PREFECT_SERVER_API_KEEPALIVE_TIMEOUT.value(),
        log_level=PREFECT_SERVER_LOGGING_LEVEL.value().lower(),
    )


if __name__ == "__main__":
    main()
