"""The benchmark client speaks gRPC as a real server understands it."""

import asyncio
from collections import defaultdict

import grpc
import grpc.aio
import pytest

from hortator.cli.bench.client.http2 import Connection, request_headers


class _Handler(grpc.GenericRpcHandler):
    """Streams `count` messages of `size` bytes for a request `count:size`; echoes on the other method."""

    def service(self, call_details):
        if call_details.method == "/test.Service/Stream":
            return grpc.unary_stream_rpc_method_handler(self._stream)
        if call_details.method == "/test.Service/Echo":
            return grpc.stream_stream_rpc_method_handler(self._echo)
        return None

    async def _stream(self, request, context):
        count, size = map(int, request.decode().split(":"))
        for index in range(count):
            yield bytes([index % 256]) * size

    async def _echo(self, requests, context):
        async for request in requests:
            yield request


@pytest.fixture
async def address():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0.1)


class Received:
    def __init__(self):
        self.messages = defaultdict(list)
        self.ended = asyncio.Queue()

    def on_message(self, stream_id, at, message):
        self.messages[stream_id].append(message)

    def on_end(self, stream_id, at):
        self.ended.put_nowait(stream_id)


async def test_every_message_of_many_streams_arrives_whole_and_in_order(address):
    received = Received()
    connection = await Connection.open(address, on_message=received.on_message, on_end=received.on_end)
    headers = request_headers("/test.Service/Stream", address)
    streams = {connection.call(headers, f"50:{size}".encode()): size for size in (0, 1, 100, 20_000, 70_000)}
    async with asyncio.timeout(20):
        for _ in streams:
            await received.ended.get()
    for stream_id, size in streams.items():
        assert received.messages[stream_id] == [bytes([index]) * size for index in range(50)]
    connection.close()
    await connection.closed.wait()


async def test_a_stream_both_ways_respects_the_servers_window(address):
    received = Received()
    connection = await Connection.open(address, on_message=received.on_message, on_end=received.on_end)
    stream_id = connection.call(request_headers("/test.Service/Echo", address), b"first", ends=False)
    messages = [bytes([index]) * 9_000 for index in range(60)]  # 540 kB, the window is 64 kB
    for message in messages:
        connection.send(stream_id, message)
    async with asyncio.timeout(20):
        while len(received.messages[stream_id]) < 61:
            await asyncio.sleep(0.01)
    assert received.messages[stream_id] == [b"first", *messages]
    connection.reset(stream_id)
    connection.close()


async def test_a_refused_call_ends_without_a_message(address):
    received = Received()
    connection = await Connection.open(address, on_message=received.on_message, on_end=received.on_end)
    stream_id = connection.call(request_headers("/test.Service/Nothing", address), b"x")
    async with asyncio.timeout(10):
        assert await received.ended.get() == stream_id
    assert not received.messages[stream_id]
    connection.close()
