"""The world that services are tried in: what its clock and its network promise."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from virtual.loops import World
from virtual.network import Network

ADDRESS = "10.0.0.1:80"


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()
    assert world.problems == []


@pytest.fixture
def network(world):
    network = Network(world, seed=1)
    network.names["10.0.0.1"] = "server"
    return network


async def echo(requests, context):
    async for request in requests:
        await context.write(request)


def serve(world, network):
    async def main():
        server = network.server()
        handler = grpc.stream_stream_rpc_method_handler(
            echo, request_deserializer=int, response_serializer=str
        )
        server.add_registered_method_handlers("Echo", {"Talk": handler})
        server.add_insecure_port(ADDRESS)
        await server.start()
        await asyncio.Event().wait()

    return world.start("server", "10.0.0.1", lambda _: main())


def talk(world, network, said, heard, *, pause_s=0.0):
    async def main():
        stub = network.channel(ADDRESS).stream_stream("/Echo/Talk", str, int)
        call = stub()

        async def write():
            for number in said:
                await call.write(number)
                await asyncio.sleep(pause_s)
            await call.done_writing()

        writing = asyncio.ensure_future(write())
        try:
            async for answer in call:
                heard.append((asyncio.get_running_loop().time(), answer))
        except grpc.aio.AioRpcError as error:
            heard.append((asyncio.get_running_loop().time(), error.code().name))
        writing.cancel()

    return world.start("client", "", lambda _: main())


def answers(heard):
    return [answer for _, answer in heard]


def test_messages_come_whole_and_in_order_after_a_while(world, network):
    heard = []
    serve(world, network)
    client = talk(world, network, range(50), heard)
    assert world.run(until=10.0, done=lambda: client.is_dead)
    assert answers(heard) == list(range(50))
    assert 0.0 < heard[0][0] < 0.01


def test_nobody_listens_there(world, network):
    heard = []
    talk(world, network, [1], heard)
    world.run(until=1.0)
    assert answers(heard) == ["UNAVAILABLE"]


def test_a_cut_loses_what_is_on_its_way_and_both_ends_know(world, network):
    heard = []
    server = serve(world, network)
    talk(world, network, range(100), heard, pause_s=0.01)
    world.at(0.2, lambda: network.link("client", "10.0.0.1").cut(for_good=False))
    world.run(until=5.0)
    *numbers, end = answers(heard)
    assert numbers == list(range(len(numbers)))
    assert 5 < len(numbers) < 25
    assert end == "UNAVAILABLE"
    assert not server.servers[ADDRESS].tasks


def test_silence_loses_nothing_and_hides_that_the_peer_has_died(world, network):
    heard = []
    server = serve(world, network)
    link = network.link("client", "10.0.0.1")
    talk(world, network, range(100), heard, pause_s=0.01)

    def fall_silent():
        link.is_silent = True

    world.at(0.2, fall_silent)
    world.at(0.3, server.die)
    world.at(4.0, link.speak)
    world.run(until=3.9)
    assert "UNAVAILABLE" not in answers(heard)
    world.run(until=5.0)
    assert answers(heard)[-1] == "UNAVAILABLE"


def test_who_is_stopped_does_later_what_was_to_be_done(world, network):
    heard = []
    server = serve(world, network)
    client = talk(world, network, range(5), heard)

    def go_on():
        server.is_stopped = False

    world.run(until=0.0)
    server.is_stopped = True
    world.at(2.0, go_on)
    assert world.run(until=10.0, done=lambda: client.is_dead)
    assert answers(heard) == list(range(5))
    assert heard[0][0] > 2.0


def test_who_is_killed_leaves_no_trace_of_its_ending(world, network):
    """Its `finally` blocks run when the world ends; nobody hears of it."""
    heard = []
    serve(world, network)
    client = talk(world, network, range(100), heard, pause_s=0.01)
    world.run(until=0.2)
    client.die()
    before = len(heard)
    world.run(until=1.0)
    assert len(heard) == before
