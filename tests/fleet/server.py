"""A static file server on loopback with ranges, that tests can bend: count, cut, stall, lie."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Server:
    folder: Path
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range header of every request."""
    sent: int = 0
    """Bytes of all bodies."""
    cut_after: int | None = None
    """Close the connection after so many bytes of a target."""
    ignore_ranges: bool = False
    endless: str = ""
    """A path that ends so never stops sending, without a length."""
    replaced: dict[str, bytes] = field(default_factory=dict)
    """What to send instead, by end of the path."""
    status: int = 0
    """Answer everything with it."""
    content_type: str = ""
    """Of all bodies."""
    location: str = ""
    """Redirect to it."""

    def content(self, path: str) -> bytes | None:
        for end, data in self.replaced.items():
            if path.endswith(end):
                return data
        file = self.folder / path.lstrip("/")
        return file.read_bytes() if file.is_file() else None


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            server.asked.append((self.path, asked))
            if server.location:
                self.send_response(302)
                self.send_header("Location", server.location)
                self.end_headers()
                return
            data = server.content(self.path)
            if server.status or data is None:
                self.send_error(server.status or 404)
                return
            if server.endless and self.path.endswith(server.endless):
                self._endless()
                return
            self._send(data, asked)

        def _send(self, data: bytes, asked: str) -> None:
            found = re.fullmatch(r"bytes=(\d+)-", asked)
            start = int(found[1]) if found and not server.ignore_ranges else 0
            if start >= len(data) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            if server.content_type:
                self.send_header("Content-Type", server.content_type)
            self.end_headers()
            body = data[start:]
            if server.cut_after is not None and "/targets/" in self.path:
                body = body[: server.cut_after]
            server.sent += len(body)
            self.wfile.write(body)

        def _endless(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(65536))
                    server.sent += 65536
            except OSError:
                return

        def log_message(self, format: str, *args: object) -> None:
            return

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server.url = f"http://127.0.0.1:{httpd.server_port}/"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
