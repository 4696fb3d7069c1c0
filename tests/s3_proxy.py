"""A proxy in front of a server of S3's protocol: it loses answers, drops conditions, or refuses."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Meddle = Callable[[str, dict[str, str]], "int | str | None"]
"""Given method and headers, which it may change: a status to refuse with, or what to do to the request.

``lose`` its answer; ``cut`` half of its answer off; do it ``twice``.
"""


@contextmanager
def meddling(
    endpoint: str, meddle: Meddle, amend: Callable[[dict[str, str]], None] = lambda headers: None
) -> Iterator[str]:
    """Endpoint of a proxy that asks `meddle` about each request; `amend` may change an answer's headers."""
    target = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            what = meddle(self.command, headers)
            if isinstance(what, int):
                self._answer(what, {}, b"")
                return
            for _ in range(2 if what == "twice" else 1):
                upstream = http.client.HTTPConnection(target)
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                data = answer.read()
                upstream.close()
            if what == "lose":
                self.close_connection = True
                return
            told = dict(answer.getheaders())
            amend(told)
            self._answer(answer.status, told, data, whole=what != "cut")

        def _answer(self, status: int, headers: dict[str, str], data: bytes, *, whole: bool = True) -> None:
            self.send_response_only(status)
            length = headers.pop("Content-Length", str(len(data)))
            for name, value in headers.items():
                if name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                with suppress(BrokenPipeError, ConnectionResetError):  # who asked has gone
                    self.wfile.write(data if whole else data[: len(data) // 2])
            self.close_connection |= not whole

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
