"""An application of this package as a server: where it listens, and whom it answers."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp

from fmbseg.errors import ConfigError
from fmbseg.web.guard import LOOPBACK, guarded

LOGIN = "FMBSEG_LOGIN"
"""Variable with `user:password` for servers that other machines reach."""
_ANY = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Door:
    """A listening socket, and whom it lets in.

    Attributes:
        listener: bound, accepts already.
        host: address that it is bound to.
        names: that the server is called by.
        login: `user:password` that it asks for; None: none.
    """

    listener: socket.socket
    host: str
    names: frozenset[str]
    login: str | None

    @property
    def address(self) -> str:
        """What a browser of this machine opens."""
        host = LOOPBACK[0] if self.host in _ANY else self.host
        return f"http://{host}:{self.listener.getsockname()[1]}"

    def serve(self, app: ASGIApp) -> None:
        """Answer until it is interrupted."""
        import uvicorn

        own = guarded(app, self.names, frozenset(), self.login)
        uvicorn.Server(uvicorn.Config(own, log_level="warning")).run(sockets=[self.listener])


def open_door(host: str, port: int, names: Sequence[str] = ()) -> Door:
    """Listen at an address, before anything is loaded.

    Args:
        host: address of this machine; off its own one (127.0.0.1) a password is asked for.
        port: 0: any that is free.
        names: further names that the server is called by.

    Raises:
        ConfigError: the address is taken or not of this machine; other machines would reach it,
            and no password is chosen, or no name.
    """
    login = None
    if host not in LOOPBACK:
        login = os.environ.get(LOGIN, "")
        user, _, password = login.partition(":")
        if not user or not password:
            raise ConfigError(
                f"other machines reach {host}: choose user and password, as {LOGIN}=user:password "
                "in the environment, or leave --host out"
            )
        if host in _ANY and not names:
            raise ConfigError(f"{host} is every address: say what it is called, with --name")
    try:
        listener = _listen(host, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{host}:{port}: {reason}: take another --port or --host") from error
    return Door(listener, host, frozenset({*LOOPBACK, host, *names} - {*_ANY}), login)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=64)
