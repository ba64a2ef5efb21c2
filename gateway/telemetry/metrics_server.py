"""`/metrics` on a port of its own, for scrapers that may not call the API."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gateway.telemetry.metrics import CONTENT_TYPE

CONNECTIONS = 16  # at a time; beyond, the oldest is ended
_TIMEOUT_S = 10.0  # without a byte of a request


class MetricsServer:
    """Answers `GET /metrics` and nothing else, in its own threads."""

    def __init__(
        self,
        host: str,
        port: int,
        answers_to: Callable[[str], bool],
        rendered: Callable[[], bytes],
    ) -> None:
        """Listens on a port, which several processes may share.

        Args:
            host: Address to listen on.
            port: Port to listen on.
            answers_to: Whether a request with this Host header is answered.
            rendered: Returns the metrics.

        Raises:
            OSError: The address cannot be listened on.
        """
        self._server = _Server((host, port), _handler(answers_to, rendered))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    allow_reuse_port = True
    request_queue_size = 128  # where many connect at once, five would not do for the scraper
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, object]:
        """Accepts a connection; ends the oldest one where there are too many."""
        connection, address = super().get_request()
        with self._lock:
            self._open.append(connection)
            if len(self._open) > CONNECTIONS:
                with suppress(OSError):  # its client was faster
                    self._open.pop(0).shutdown(socket.SHUT_RDWR)
        return connection, address

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """See `socketserver.BaseServer.shutdown_request`."""
        with self._lock:
            self._open = [each for each in self._open if each is not request]
        super().shutdown_request(request)

    def server_bind(self) -> None:
        # The base class would look up our own name.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores a scraper that disconnects early."""


def _handler(
    answers_to: Callable[[str], bool], rendered: Callable[[], bytes]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S
        server_version = "openclip-triton"
        sys_version = ""

        def do_GET(self) -> None:
            if not answers_to(self.headers.get("host", "")):
                self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
                return
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            body = rendered()
            self.send_response(HTTPStatus.OK)
            self.send_header("content-type", CONTENT_TYPE)
            self.send_header("content-length", str(len(body)))
            self.send_header("x-content-type-options", "nosniff")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Scrapes are not logged."""

    return Handler
