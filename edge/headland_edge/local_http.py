"""The loopback endpoint: ``GET /advice`` and ``GET /health``, as JSON, for programs on this very machine.

Two paths and one method need little, and the standard library's HTTP server would bring mail, HTML and TLS into a
process that has to stay small: a request is read here up to its empty line, answered, and the connection closed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

HOST = "127.0.0.1"
_TIMEOUT_S = 5.0
_MAX_LINE_BYTES = 4096
_MAX_HEADERS = 100
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}
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


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nobody's trouble."""


def _handler(answers: Mapping[str, Answer]) -> type[StreamRequestHandler]:
    class Handler(StreamRequestHandler):
        timeout = _TIMEOUT_S

        def handle(self) -> None:
            words = self.rfile.readline(_MAX_LINE_BYTES).decode("latin-1").split()
            whole = any(self.rfile.readline(_MAX_LINE_BYTES) in (b"\r\n", b"\n", b"") for _ in range(_MAX_HEADERS))
            status, content = _answer(words, answers) if whole else (400, {"error": "too many headers"})
            data = json.dumps(content, allow_nan=False).encode()
            head = (
                f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(data)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
            )
            self.wfile.write(head.encode() + data)

    return Handler


def _answer(words: list[str], answers: Mapping[str, Answer]) -> tuple[int, Any]:
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return 400, {"error": "ask as in HTTP/1.1"}
    if words[0] != "GET":
        return 405, {"error": "only GET is answered"}
    answer = answers.get(words[1].partition("?")[0])
    if answer is None:
        return 404, {"error": f"ask for one of {', '.join(sorted(answers))}"}
    return 200, answer()
