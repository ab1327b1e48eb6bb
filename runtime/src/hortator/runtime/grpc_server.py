"""gRPC servers and channels with the options every process of ours wants.

- Messages up to 64 MiB (KV hand-over chunks and prompts are large), the same on both ends.
- Keepalive on both ends, so a peer that vanished without closing (a cut cable, a stopped process) is
  noticed within about 30 s; servers accept the pings that our channels send, also more frequent ones.
- gRPC sends pings of its own to measure a connection. While one of them is unanswered there is no keepalive,
  and its own timeout is a minute unless told otherwise: it has to be told both.
- SO_REUSEPORT off: a second process on a taken port fails at start instead of stealing half the calls.
- Loopback unless told otherwise.
- grpc.health.v1 and reflection on every server; health says NOT_SERVING until `set_serving(True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hortator.runtime.peer_calls import PeerCalls

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
KEEPALIVE_TIME_MS = 20_000
KEEPALIVE_TIMEOUT_MS = 10_000
CONNECT_TIMEOUT_MS = 1_000
"""For one try (gRPC's name for it misleads), handshakes included: a few round trips of a slow link, or a lost
packet. Who answers that nobody listens does so at once."""
HANDSHAKE_TIMEOUT_MS = 10_000
"""What a server gives a connection that says nothing."""

_SHARED_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *_SHARED_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 4),
    ("grpc.http2.max_ping_strikes", 0),
)
_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    *_SHARED_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What a server that strangers reach takes of them; gRPC refuses what is beyond."""

    max_message_bytes: int
    max_metadata_bytes: int
    max_calls: int
    """At a time, of all services; more are refused with RESOURCE_EXHAUSTED."""
    max_calls_per_connection: int
    """More wait at the client."""
    max_connections: int
    """More are closed as soon as they are made."""
    connection_idle_timeout_s: float
    """A connection without a call is closed after this."""

    def options(self) -> tuple[tuple[str, int], ...]:
        """In gRPC's words. Between its two limits of metadata it refuses by chance, so they are one."""
        return (
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_metadata_size", self.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.max_metadata_bytes),
            ("grpc.max_concurrent_streams", self.max_calls_per_connection),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            ("grpc.max_connection_idle_ms", int(1000 * self.connection_idle_timeout_s)),
        )


class BindError(Exception):
    """The server cannot listen where it was told to; the message names the address."""


class GrpcServer:
    """A grpc.aio server with health and reflection. Start it, use it, close it; or `async with`."""

    def __init__(
        self,
        *,
        register: Callable[[grpc.aio.Server], None],
        service_names: Sequence[str],
        host: str = "127.0.0.1",
        port: int = 0,
        credentials: grpc.ServerCredentials | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        limits: ServerLimits | None = None,
    ) -> None:
        """Declare a server; nothing happens before `start`.

        Args:
            register: adds the servicers, for example
                ``lambda server: add_InferenceServicer_to_server(service, server)``.
            service_names: full names, for health and reflection.
            host: address to bind; loopback by default.
            port: 0 picks a free one.
            credentials: TLS; None is plaintext.
            interceptors: outermost first.
            limits: what it takes of its clients; None where all of them are ours: `peer_calls` is enough.
        """
        self._register = register
        self._service_names = tuple(service_names)
        self._host = host
        self._wanted_port = port
        self._credentials = credentials
        self._interceptors = (*(() if limits is not None else (PeerCalls(),)), *interceptors)
        self._limits = limits
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._port = 0

    @property
    def port(self) -> int:
        """The bound port; 0 before `start`."""
        return self._port

    @property
    def address(self) -> str:
        """`host:port` as bound."""
        return _join(self._host, self._port)

    async def start(self) -> int:
        """Bind, serve, and return the port. Health is NOT_SERVING until `set_serving(True)`.

        Raises:
            BindError: the port is taken or the host is not ours.
        """
        limits = self._limits
        options = dict(_SERVER_OPTIONS) | dict(() if limits is None else limits.options())
        server = grpc.aio.server(
            options=tuple(options.items()),
            interceptors=self._interceptors,
            maximum_concurrent_rpcs=None if limits is None else limits.max_calls,
        )
        self._register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (*self._service_names, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        wanted = _join(self._host, self._wanted_port)
        try:
            if self._credentials is None:
                port = server.add_insecure_port(wanted)
            else:
                port = server.add_secure_port(wanted, self._credentials)
        except RuntimeError as error:
            raise BindError(f"cannot listen on {wanted}: {error}") from error
        if port == 0:
            raise BindError(f"cannot listen on {wanted}")
        self._server, self._port = server, port
        await self.set_serving(serving=False)
        await server.start()
        return port

    async def set_serving(self, *, serving: bool) -> None:
        """Say by grpc.health.v1 whether this process wants work (all services alike)."""
        statuses = health_pb2.HealthCheckResponse
        status = statuses.SERVING if serving else statuses.NOT_SERVING
        for name in ("", *self._service_names):
            await self._health.set(name, status)

    async def close(self, *, grace_s: float = 0.0) -> None:
        """Refuse new calls at once, give running ones `grace_s`, then cancel them. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await self._health.enter_graceful_shutdown()
            await server.stop(grace_s)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def open_channel(
    address: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Channel:
    """A channel to `host:port` with the options that our servers expect. It connects lazily; close it."""
    merged = tuple((dict(_CHANNEL_OPTIONS) | dict(options)).items())  # of two of a name gRPC takes the first
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=merged, interceptors=interceptors)
    return grpc.aio.secure_channel(address, credentials, options=merged, interceptors=interceptors)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
