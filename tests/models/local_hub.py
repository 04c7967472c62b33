"""A hub for tests: a local HTTP server that knows ranges, and breaks connections when told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """What the server gives, how it fails, and what it was asked.

    Attributes:
        files: content by path.
        redirects: path -> (other path, headers of the redirect, to which the size is added).
        breaks: how many bytes each of the next answers gives before the connection breaks.
        stall: instead of breaking, keep the connection open and silent.
        length: states this Content-Length instead of the true one.
        ranges: whether the server knows Range; one that does not gives the whole.
        looked: path of every HEAD request.
        asked: (path, Range header) of every GET request.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # To the hub's clients another host, as the storage that a hub sends them to.
        self.elsewhere = url.replace("127.0.0.1", "localhost")
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, tuple[str, dict[str, str]]] = {}
        self.breaks: list[int] = []
        self.stall = False
        self.length: int | None = None
        self.ranges = True
        self.looked: list[str] = []
        self.asked: list[tuple[str, str | None]] = []
        self.released = threading.Event()


@contextmanager
def running_hub() -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            hub.looked.append(self.path)
            self.answer()

        def do_GET(self) -> None:
            hub.asked.append((self.path, self.headers.get("Range")))
            self.answer()

        def answer(self) -> None:
            if self.path in hub.redirects:
                target, headers = hub.redirects[self.path]
                self.send_response(302)
                size = {"X-Linked-Size": str(len(hub.files[target])), "Content-Length": "0"}
                for name, value in {**headers, **size, "Location": hub.elsewhere + target}.items():
                    self.send_header(name, value)
                self.end_headers()
            elif self.path in hub.files:
                self.give(hub.files[self.path])
            else:
                self.send_error(404)

        def give(self, content: bytes) -> None:
            wanted, start = self.headers.get("Range"), 0
            if hub.ranges and wanted:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start and start >= len(content):
                self.send_error(416)
                return
            part = content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.send_header("ETag", f'"{hash(content):x}"')
            self.send_header("Content-Length", str(hub.length or len(part)))
            self.end_headers()
            self.close_connection = True
            if self.command == "HEAD":
                return
            if hub.breaks:
                self.wfile.write(part[: hub.breaks.pop(0)])
                self.wfile.flush()
                if hub.stall:
                    hub.released.wait(60)
            else:
                self.wfile.write(part)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
