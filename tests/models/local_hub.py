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
        redirects: path -> (other path, headers of the redirect).
        etags: whether answers carry an ETag, which changes with the content.
        breaks: how many bytes each of the next answers gives before the connection breaks.
        stall: instead of breaking, keep the connection open and silent.
        length: states this Content-Length instead of the true one.
        most: bytes of the longest answer to a range.
        if_range: whether the server knows If-Range; one that does not joins versions.
        asked: (path, Range header) of every request.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, tuple[str, dict[str, str]]] = {}
        self.etags = True
        self.breaks: list[int] = []
        self.stall = False
        self.length: int | None = None
        self.most: int | None = None
        self.if_range = True
        self.asked: list[tuple[str, str | None]] = []
        self.released = threading.Event()


@contextmanager
def running_hub() -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            hub.asked.append((self.path, self.headers.get("Range")))
            if self.path in hub.redirects:
                target, headers = hub.redirects[self.path]
                self.send_response(302)
                for name, value in {**headers, "Location": hub.url + target}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path not in hub.files:
                self.send_error(404)
                return
            self.give(hub.files[self.path])

        def give(self, content: bytes) -> None:
            etag = f'"{hash(content):x}"'
            wanted, start = self.headers.get("Range"), 0
            same = not hub.if_range or self.headers.get("If-Range") == etag
            if hub.etags and wanted and same:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start and start >= len(content):
                self.send_error(416)
                return
            part = content[start:]
            self.send_response(206 if start else 200)
            if start:
                part = part[: hub.most]
                self.send_header(
                    "Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}"
                )
            if hub.etags:
                self.send_header("ETag", etag)
            self.send_header("Content-Length", str(hub.length or len(part)))
            self.end_headers()
            if hub.breaks:
                self.wfile.write(part[: hub.breaks.pop(0)])
                self.wfile.flush()
                if hub.stall:
                    hub.released.wait(60)
            else:
                self.wfile.write(part)
            self.close_connection = True

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
