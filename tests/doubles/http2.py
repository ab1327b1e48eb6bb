"""Bytes of HTTP/2 as no client library sends them."""

from __future__ import annotations

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)[:3] + b"\x04" + bytes(5)
"""How HTTP/2 begins: the preface, and settings that change nothing."""


def a_call_without_a_message() -> bytes:
    """HEADERS of a Generate call in literals, then a DATA frame that ends within its message."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/hortator.rpc.inference.v1.InferenceService/Generate",
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    headers = len(block).to_bytes(3, "big") + b"\x01\x04" + (1).to_bytes(4, "big") + block
    message = b"\x00" + (1000).to_bytes(4, "big") + b"\x0a"
    return headers + len(message).to_bytes(3, "big") + b"\x00\x00" + (1).to_bytes(4, "big") + message
