"""Servers of this machine answer under their own names and to their own pages alone.

A page of any site that is open in a browser of this machine can send requests to it. So a request
must name the server as it is called (Host), and one that a page sends must come from the server's
own pages (Origin). One that other machines reach asks for user and password too.
"""

from __future__ import annotations

import base64
import secrets

from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost")
"""Names that a server of this machine is called by."""


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


class AsksLogin:
    """Refuses requests without user and password (HTTP's basic authentication).

    Args:
        app: answers the others.
        login: `user:password`.
    """

    def __init__(self, app: ASGIApp, login: str) -> None:
        self._app = app
        self._wanted = b"Basic " + base64.b64encode(login.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] in ("http", "websocket"):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._wanted):
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008})
                    return
                asks = {"WWW-Authenticate": 'Basic realm="fmbseg", charset="UTF-8"'}
                refusal = PlainTextResponse("User and password are needed", 401, asks)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def guarded(
    app: ASGIApp, hosts: frozenset[str], origins: frozenset[str], login: str | None = None
) -> ASGIApp:
    """An application that answers under its own names and to its own pages alone.

    Args:
        app: the application.
        hosts: its names, without ports.
        origins: origins besides its own; `*` is none.
        login: `user:password` that it asks for; None: it has a password of its own, or answers
            this machine alone.
    """
    same = SameOrigin(app if login is None else AsksLogin(app, login), origins - {"*"})
    return TrustedHostMiddleware(same, allowed_hosts=sorted(hosts), www_redirect=False)
