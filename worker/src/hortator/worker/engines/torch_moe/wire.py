"""Frames between the engine and its rank processes: 4 bytes number, 8 bytes length, a pickle.

A reply carries the number of the message it answers. Both ends are the same program on the same
machine, joined by a socket pair nobody else can open, so pickle is safe here.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct

_HEADER = struct.Struct("<IQ")


def encode(number: int, message: object) -> bytes:
    """One frame."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _HEADER.pack(number, len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, object]:
    """The next frame. Raises asyncio.IncompleteReadError at the end of the stream."""
    number, length = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    return number, pickle.loads(await reader.readexactly(length))  # noqa: S301 - see the module docstring


def receive(connection: socket.socket) -> tuple[int, object] | None:
    """The next frame, blocking; None at the end of the stream."""
    header = _receive_exactly(connection, _HEADER.size)
    if header is None:
        return None
    number, length = _HEADER.unpack(header)
    body = _receive_exactly(connection, length)
    return None if body is None else (number, pickle.loads(body))  # noqa: S301 - see the module docstring


def _receive_exactly(connection: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = connection.recv_into(view[filled:])
        if count == 0:
            return None
        filled += count
    return data
