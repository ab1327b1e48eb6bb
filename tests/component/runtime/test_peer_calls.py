"""Open calls of one address at servers whose callers are all ours."""

import asyncio

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hortator.runtime.grpc_server import GrpcServer, ServerLimits, open_channel
from hortator.runtime.peer_calls import PeerCalls, address_of

ECHO = "/demo.Echo/Say"


@pytest.fixture
def small(monkeypatch):
    """A server of ours takes three calls of an address."""
    monkeypatch.setattr("hortator.runtime.grpc_server.PeerCalls", lambda: PeerCalls(max_calls=3))


def server_of(handler, **options):
    def register(server):
        method = grpc.unary_unary_rpc_method_handler(handler)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Echo", {"Say": method}),))

    return GrpcServer(register=register, service_names=("demo.Echo",), **options)


async def test_an_address_has_so_many_calls_open_and_no_more_whatever_they_are(small):
    async def echo(request, context):
        return request

    async with server_of(echo) as server, open_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        open_ones = [watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        for one in open_ones:
            await one.read()
        say = channel.unary_unary(ECHO)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say(b"hi", timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "127.0.0.1 has 3 calls open, the limit of an address"
        open_ones[0].cancel()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await say(b"hi", timeout=10) == b"hi"
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)


async def test_calls_that_end_or_fail_are_counted_no_longer(small):
    async def fail(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")

    async with server_of(fail) as server, open_channel(server.address) as channel:
        for _ in range(10):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(ECHO)(b"hi", timeout=10)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_server_for_clients_counts_them_itself(small):
    async def wait(request, context):
        await asyncio.sleep(0.2)
        return request

    limits = ServerLimits(
        max_message_bytes=1 << 20,
        max_metadata_bytes=8192,
        max_calls=100,
        max_calls_per_connection=100,
        max_connections=10,
        connection_idle_timeout_s=60,
    )
    async with server_of(wait, limits=limits) as server, open_channel(server.address) as channel:
        say = channel.unary_unary(ECHO)
        assert await asyncio.gather(*(say(b"hi", timeout=10) for _ in range(10))) == [b"hi"] * 10


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:4711", "10.0.0.1"),
        ("ipv6:%5B2001:db8::7%5D:4711", "2001:db8::/64"),
        ("ipv6:[::ffff:10.0.0.1]:4711", "10.0.0.1"),
        ("unix:/run/s", "unix:/run/s"),
    ],
)
def test_an_address_is_told_in_words_for_people(peer, address):
    assert address_of(peer) == address
