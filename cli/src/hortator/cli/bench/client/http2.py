"""The smallest gRPC client that is correct: HTTP/2 frames by hand, for load generation only.

A full gRPC client in Python costs more per message than the server under test, and both share this machine.
This one writes requests as prepared bytes and notes every message with the time at which it was read;
messages are parsed after the measurement.

What makes that enough: no TLS, no compression; both flow-control windows of the receiving side are opened
once to their maximum (2 GiB per stream and connection, no connection gets near it); response headers are
skipped, except that a stream's last frame is noted. The sending side respects the peer's connection window.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import cast

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_FRAME_HEADER_BYTES = 9
_INITIAL_WINDOW = 65_535
_MAX_WINDOW = (1 << 31) - 1

Receive = Callable[[int, float, bytes], None]
"""(stream id, time.perf_counter() when it was read, the message without its gRPC prefix)."""
Ended = Callable[[int, float], None]


class Connection(asyncio.Protocol):
    """One HTTP/2 connection; streams are opened with `call`."""

    def __init__(self, on_message: Receive, on_end: Ended) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._buffer = bytearray()
        self._partial: dict[int, bytearray] = {}
        self._next_stream_id = 1
        self._window = _INITIAL_WINDOW
        self._unsent: deque[tuple[int, bytes]] = deque()
        self._transport: asyncio.Transport | None = None
        self.closed = asyncio.Event()

    @classmethod
    async def open(
        cls, address: str, *, on_message: Receive, on_end: Ended = lambda _id, _at: None
    ) -> Connection:
        """Connect to `host:port`. Raises OSError."""
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(on_message, on_end), host, int(port))
        return connection

    def call(self, headers: bytes, message: bytes, *, ends: bool = True) -> int:
        """Open a stream with its first message; returns the stream id. `ends`: nothing more will be sent."""
        stream_id = self._next_stream_id
        self._next_stream_id += 2
        self._write(_frame(_HEADERS, _END_HEADERS, stream_id, headers))
        self._send_data(stream_id, _END_STREAM if ends else 0, message)
        return stream_id

    def send(self, stream_id: int, message: bytes) -> None:
        """Another message on an open stream."""
        self._send_data(stream_id, 0, message)

    def reset(self, stream_id: int) -> None:
        """Cancel a stream."""
        self._write(_frame(_RST_STREAM, 0, stream_id, struct.pack(">I", 8)))

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the windows."""
        self._transport = cast("asyncio.Transport", transport)
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, _MAX_WINDOW)
        grow = struct.pack(">I", _MAX_WINDOW - _INITIAL_WINDOW)
        self._write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, grow))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Nothing more will come."""
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        """Split into frames."""
        now = time.perf_counter()
        buffer = self._buffer
        buffer += data
        position = 0
        while len(buffer) - position >= _FRAME_HEADER_BYTES:
            length = buffer[position] << 16 | buffer[position + 1] << 8 | buffer[position + 2]
            end = position + _FRAME_HEADER_BYTES + length
            if len(buffer) < end:
                break
            kind, flags = buffer[position + 3], buffer[position + 4]
            stream_id = int.from_bytes(buffer[position + 5 : position + 9], "big")
            if kind == _DATA:
                if length:
                    self._on_data(stream_id, now, bytes(buffer[position + 9 : end]))
                if flags & _END_STREAM:
                    self._end(stream_id, now)
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    self._end(stream_id, now)
            else:
                self._on_control(kind, flags, stream_id, now, bytes(buffer[position + 9 : end]))
            position = end
        del buffer[:position]

    def _on_data(self, stream_id: int, now: float, payload: bytes) -> None:
        if stream_id not in self._partial and int.from_bytes(payload[1:5], "big") == len(payload) - 5:
            self._on_message(stream_id, now, payload[5:])
            return
        partial = self._partial.setdefault(stream_id, bytearray())
        partial += payload
        while len(partial) >= 5:
            end = 5 + int.from_bytes(partial[1:5], "big")
            if len(partial) < end:
                return
            self._on_message(stream_id, now, bytes(partial[5:end]))
            del partial[:end]
        if not partial:
            del self._partial[stream_id]

    def _on_control(self, kind: int, flags: int, stream_id: int, now: float, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream_id == 0:
            self._window += int.from_bytes(payload, "big")
            self._flush()
        elif kind == _RST_STREAM:
            self._end(stream_id, now)
        elif kind == _GOAWAY:
            self.close()

    def _end(self, stream_id: int, now: float) -> None:
        self._partial.pop(stream_id, None)
        self._on_end(stream_id, now)

    def _send_data(self, stream_id: int, flags: int, message: bytes) -> None:
        payload = b"\0" + len(message).to_bytes(4, "big") + message
        self._unsent.append((len(payload), _frame(_DATA, flags, stream_id, payload)))
        self._flush()

    def _flush(self) -> None:
        while self._unsent and self._unsent[0][0] <= self._window:
            size, frame = self._unsent.popleft()
            self._window -= size
            self._write(frame)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def request_headers(path: str, authority: str) -> bytes:
    """The header block of a gRPC call, for `Connection.call`."""
    return (
        b"\x83\x86"  # :method POST, :scheme http (static table)
         b"\x04" + _string(path)  # :path
        + b"\x01" + _string(authority)  # :authority
        + b"\x00" + _string("te") + _string("trailers")
        + b"\x0f\x10" + _string("application/grpc")  # content-type
    )  # fmt: skip


def _string(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 126:
        raise ValueError(f"a header of {len(raw)} bytes (allowed: up to 126)")
    return bytes([len(raw)]) + raw


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream_id) + payload
