"""The address at which Prometheus finds the metrics."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from holdfast.errors import UsageError
from holdfast.observe.series import CONTENT_TYPE

PATH = "/metrics"
LONGEST_REQUEST_SECONDS = 10.0


class Server:
    """Serves a text to whoever asks, in threads of its own.

    Parameters
    ----------
    host : str
    port : int
        0: any that is free.
    text : callable
        Gives what is served.

    Raises
    ------
    UsageError
        Nobody can listen there.
    """

    def __init__(self, host: str, port: int, text: Callable[[], str]) -> None:
        try:
            self._server = _Server((host, port), _handler(text))
        except (OSError, UnicodeError) as error:
            raise UsageError(
                f"Metrics cannot be served at {host}:{port}: {error}.", do="Choose another port or host."
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}{PATH}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # one who asks and sleeps holds nobody up

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: who asked has gone."""

    def server_bind(self) -> None:
        """Without looking up the host's name, which may take its time."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


def _handler(text: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = LONGEST_REQUEST_SECONDS

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            data = text().encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: standard error is the training's."""

    return Handler
