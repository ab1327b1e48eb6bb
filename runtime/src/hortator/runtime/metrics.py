"""Metrics and the admin port: /metrics, /healthz and /readyz over plain HTTP.

Each app has its own `CollectorRegistry` (`new_registry`), so two apps in one process, or two tests, never
share a counter. The admin server runs in a daemon thread: a busy event loop does not make a probe time
out, and a loop that is truly stuck is reported by the `is_live` check that the app passes.

- ``/metrics``  Prometheus text (OpenMetrics when asked for).
- ``/healthz``  200 while `is_live()` is true, else 503: restart me.
- ``/readyz``   200 while `not_ready()` gives no reason, else 503 with the reasons, one a line: send no work.
                `details()` adds lines to either answer.

All three are called from the server's threads and must only read.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

LATENCY_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75,
    1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
"""Default histogram buckets for times in seconds, from one millisecond to over a minute."""

RATIO_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Default histogram buckets for shares of a whole."""


MAX_CONNECTIONS = 64
"""Of an admin port; each has a thread."""
READ_TIMEOUT_S = 10.0
"""For each piece of what is asked."""


def new_registry(*, with_process: bool = True) -> CollectorRegistry:
    """Make a registry of one app's own; `with_process` adds memory, CPU, file handles and GC."""
    registry = CollectorRegistry(auto_describe=True)
    if with_process:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
    return registry


def _always() -> bool:
    return True


def _nothing() -> Sequence[str]:
    return ()


class AdminServer:
    """Serves the admin port until closed. Usable as a context manager; `start` and `close` do not block."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        is_live: Callable[[], bool] = _always,
        not_ready: Callable[[], Sequence[str]] = _nothing,
        details: Callable[[], Sequence[str]] = _nothing,
    ) -> None:
        self._registry = registry
        self._address = (host, port)
        self._details = details
        self._is_live = is_live
        self._not_ready = not_ready
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._is_closing = False

    def start(self) -> int:
        """Bind and serve; returns the port.

        Raises:
            OSError: the address cannot be bound; the message names it.
            RuntimeError: already started.
        """
        if self._server is not None:
            raise RuntimeError("the admin server has already been started")
        server_type = _Server6 if ":" in self._address[0] else _Server
        try:
            server = server_type(self._address, self._handler())
        except OSError as error:
            host, port = self._address
            raise OSError(
                error.errno, f"cannot listen on {host}:{port} (admin port): {error.strerror}"
            ) from error
        self._is_closing = False
        thread = threading.Thread(target=self._serve, args=(server,), name="admin-http", daemon=True)
        thread.start()
        self._server, self._thread = server, thread
        return int(server.server_address[1])

    def close(self) -> None:
        """Stop serving and free the port. A second call is a no-op."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        self._server = self._thread = None
        self._is_closing = True
        with suppress(OSError):  # the thread sleeps until somebody connects
            socket.create_connection((self._address[0], int(server.server_address[1])), timeout=1.0).close()
        thread.join(timeout=5.0)
        server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The bound port. RuntimeError before `start`."""
        if self._server is None:
            raise RuntimeError("the admin server has not been started")
        return int(self._server.server_address[1])

    def answer(self, path: str, accept: str = "") -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for a GET; the whole of the protocol, without HTTP."""
        text = "text/plain; charset=utf-8"
        match path.partition("?")[0]:
            case "/metrics":
                encoder, content_type = choose_encoder(accept)
                return HTTPStatus.OK, content_type, encoder(self._registry)
            case "/healthz":
                live = self._is_live()
                status = HTTPStatus.OK if live else HTTPStatus.SERVICE_UNAVAILABLE
                return status, text, b"ok\n" if live else b"not live\n"
            case "/readyz":
                reasons = list(self._not_ready())
                status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
                lines = [*(reasons or ["ok"]), *self._details()]
                return status, text, ("\n".join(lines) + "\n").encode()
            case _:
                return HTTPStatus.NOT_FOUND, text, b"not found (try /metrics, /healthz, /readyz)\n"

    def _serve(self, server: ThreadingHTTPServer) -> None:
        """One connection after the other, without polling: each wake-up takes the GIL from the event loop."""
        while not self._is_closing:
            server.handle_request()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            timeout = READ_TIMEOUT_S

            def do_GET(self) -> None:
                try:
                    status, content_type, body = answer(self.path, self.headers.get("Accept", ""))
                except Exception as error:  # noqa: BLE001  # a probe gets an answer, whatever the check did
                    status, content_type = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8"
                    body = f"{type(error).__name__}: {error}\n".encode()
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
                """Probes every few seconds are not news."""

        return Handler


class _Server(ThreadingHTTPServer):
    """Of so many connections the oldest goes when another comes: who asks a thing has asked it by then."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._connections: dict[Any, None] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle it in a thread of its own."""
        oldest = None
        with self._lock:
            self._connections[request] = None
            if len(self._connections) > MAX_CONNECTIONS:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
        if oldest is not None:
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """It is over."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing about those who ask and leave before the answer; anything else is a fault of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Server6(_Server):
    address_family = socket.AF_INET6
