"""What stands between a client and a real server, and lets it fail on command."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Literal

Fault = Literal["none", "away", "slow", "500"]
_ANSWER = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry"
)


class Proxy:
    """Passes TCP connections on to a server of this machine.

    Faults: `away` cuts what is open and refuses what is new, `slow` keeps what is passed on waiting
    for `delay` seconds each time, `500` answers so to every request.
    """

    def __init__(self, target: int, delay: float = 1.0) -> None:
        self.target, self.delay = target, delay
        self.refused = 0
        self._fault: Fault = "none"
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        for each in list(self._open):  # also those that are kept alive
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.fault = "away"
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._fault in ("away", "500"):
            self.refused += 1
            with client, suppress(OSError):
                if self._fault == "500":
                    client.settimeout(5)
                    client.recv(1 << 20)
                    client.sendall(_ANSWER)
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(1 << 20):
                        pass
            return
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:  # the server itself is away
            self.refused += 1
            client.close()
            return
        self._open |= {client, server}
        ends = [(client, server), (server, client)]
        threads = [threading.Thread(target=self._pass, args=pair, daemon=True) for pair in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in (client, server):
            self._open.discard(each)
            each.close()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self._fault == "slow":
                    time.sleep(self.delay)
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
