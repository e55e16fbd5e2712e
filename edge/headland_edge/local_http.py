"""The loopback endpoint: ``GET /advice`` and ``GET /health``, as JSON, for programs on this very machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOST = "127.0.0.1"
_TIMEOUT_S = 5.0
Answer = Callable[[], Any]


class LocalHttp:
    """The endpoint in a thread; close it at the end.

    Args:
        port: on the loopback interface.
        answers: by path, what is answered.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, port: int, answers: Mapping[str, Answer]) -> None:
        self._server = _Server((HOST, port), _handler(answers))
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nobody's trouble."""


def _handler(answers: Mapping[str, Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S
        server_version, sys_version = "headland-edge", ""

        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            if answer is None:
                self._send(404, {"error": f"ask for one of {', '.join(sorted(answers))}"})
            else:
                self._send(200, answer())

        def _send(self, status: int, content: Any) -> None:
            data = json.dumps(content, allow_nan=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """The journal of the machine is for what matters."""

    return Handler
