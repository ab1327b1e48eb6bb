"""HTTP/1.1 as far as a proxy for an API server needs it: heads, bodies of any framing, chunk by chunk."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

MAX_HEAD = 1 << 20
BLOCK = 1 << 16
Headers = list[tuple[str, str]]


class ProtocolError(Exception):
    """The other side does not speak HTTP/1.1."""


@dataclass(slots=True, kw_only=True)
class Head:
    """The first line and the headers of a message."""

    first: str
    headers: Headers = field(default_factory=list)

    def get(self, name: str) -> str:
        """A header's value, or nothing."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    def put(self, name: str, value: str | None) -> None:
        """Set or (None) remove a header."""
        self.headers = [(key, old) for key, old in self.headers if key.lower() != name.lower()]
        if value is not None:
            self.headers.append((name, value))

    def encoded(self) -> bytes:
        """On the wire."""
        lines = [self.first, *(f"{key}: {value}" for key, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return "chunked" in self.get("transfer-encoding").lower()

    @property
    def is_upgrade(self) -> bool:
        """Whether it is about another protocol (exec, attach, port-forward)."""
        return "upgrade" in self.get("connection").lower()


@dataclass(slots=True, kw_only=True)
class Request:
    """A request with its whole body."""

    method: str
    target: str
    head: Head
    body: bytes
    arrived_at: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def is_watch(self) -> bool:
        """Whether the answer goes on until somebody ends it."""
        query = self.target.partition("?")[2].split("&")
        return any(word in query for word in ("watch=true", "watch=1", "watch=True", "follow=true"))

    @property
    def is_write(self) -> bool:
        """Whether it changes something."""
        return self.method in {"POST", "PUT", "PATCH", "DELETE"}

    def encoded(self) -> bytes:
        """On the wire, with a length."""
        self.head.first = f"{self.method} {self.target} HTTP/1.1"
        self.head.put("Transfer-Encoding", None)
        self.head.put("Expect", None)
        if self.body or self.is_write:
            self.head.put("Content-Length", str(len(self.body)))
        return self.head.encoded() + self.body


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head; None: the other side is done."""
    try:
        block = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ProtocolError("the connection ended within a head") from None
        return None
    first, *lines = block[:-4].decode("latin-1").split("\r\n")
    headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Head(first=first, headers=headers)


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request with its body."""
    head = await read_head(reader)
    if head is None:
        return None
    try:
        method, target, _ = head.first.split(" ")
    except ValueError:
        raise ProtocolError(f"not a request: {head.first[:80]!r}") from None
    body = b"".join([block async for block in blocks(reader, head, is_request=True)])
    return Request(method=method, target=target, head=head, body=body)


async def blocks(
    reader: asyncio.StreamReader, head: Head, *, is_request: bool = False
) -> AsyncIterator[bytes]:
    """A body block by block, without its framing; a response without a length goes on until the end."""
    if head.is_chunked:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return
    length = head.get("content-length")
    if not length and not is_request:
        while block := await reader.read(BLOCK):
            yield block
        return
    left = int(length or 0)
    while left:
        block = await reader.read(min(left, BLOCK))
        if not block:
            raise ProtocolError("the connection ended within a body")
        left -= len(block)
        yield block


def has_body(request: Request, status: int) -> bool:
    """Whether a response has a body at all."""
    return request.method != "HEAD" and status not in {204, 304} and status >= 200


def chunk(block: bytes) -> bytes:
    """One chunk on the wire; an empty one ends the body."""
    return f"{len(block):x}\r\n".encode() + block + b"\r\n"
