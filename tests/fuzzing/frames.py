"""Several messages in one input: each after its length in two bytes, and of a kind that its first byte says.

So one input is a conversation, and what a fuzzer changes in one message leaves the others whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

MAX_FRAMES = 8


def frames(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= 2:
        size = int.from_bytes(data[:2], "big")
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return found[:MAX_FRAMES]


def framed(messages: Sequence[bytes]) -> bytes:
    return b"".join(
        len(message).to_bytes(2, "big") + message for message in messages if len(message) < 1 << 16
    )


def parsed(kind: type[Message], data: bytes) -> Any:
    """As gRPC parses it; None: gRPC ends the call."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def said(kinds: Mapping[bytes, type[Message]], data: bytes) -> Iterator[Any]:
    """The messages of an input, by the letter before each; what is no message of any kind is left out."""
    for frame in frames(data):
        kind = kinds.get(frame[:1])
        message = None if kind is None else parsed(kind, frame[1:])
        if message is not None:
            yield message


def conversations(
    inputs: Mapping[bytes, st.SearchStrategy[bytes]], *, max_size: int = 4
) -> st.SearchStrategy[bytes]:
    """Inputs for `said`: messages of each letter, in any order."""
    kinds = [messages.map(letter.__add__) for letter, messages in inputs.items()]
    return st.lists(st.one_of(kinds), min_size=1, max_size=max_size).map(framed)


def conversation(*messages: tuple[bytes, Message]) -> bytes:
    """One input that is in form."""
    return framed([letter + message.SerializeToString() for letter, message in messages])
