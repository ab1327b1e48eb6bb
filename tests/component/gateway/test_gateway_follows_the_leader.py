"""A gateway with two schedulers, of which one leads."""

from __future__ import annotations

import asyncio

from hortator.gateway.client.scheduler import SchedulerClient
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.runtime.endpoints import Endpoints


class Listener:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.num_connected = 0
        self.num_stale = 0
        self.placed_in: list[int] = []

    def scheduler_connected(self) -> None:
        self.num_connected += 1

    def placed(self, placement) -> None:
        self.placed_in.append(placement.epoch)

    def rejected(self, rejection) -> None: ...

    def retracted(self, retraction) -> None: ...

    def placement_was_stale(self) -> None:
        self.num_stale += 1


async def a_pair(first):
    """The scheduler that leads in epoch 1, and one that stands by."""
    second = type(first)()
    second.epoch = 0
    await second.start()
    listener = Listener()
    endpoints = Endpoints([first.address, second.address])
    client = SchedulerClient(endpoints, gateway_id="gw", events=listener, max_backoff_s=0.1)
    task = asyncio.create_task(client.run())

    async def end() -> None:
        client.close()
        await asyncio.wait({task}, timeout=5)
        assert task.done()
        await second.stop()

    return second, client, listener, end


def seen_by(scheduler):
    return [(seen.epoch, seen.is_there) for seen in scheduler.of("leader_seen")]


def a_placement(request_id):
    return scheduling_pb2.Placement(
        request_id=request_id,
        phase=scheduling_pb2.PHASE_AGGREGATED,
        worker_id="w",
        worker_address="127.0.0.1:1",
        boot_id="b",
        batch_id="batch",
        batch_size=1,
    )


async def test_requests_are_told_to_the_leader_alone_and_to_the_next_one_at_once(empty_cluster, wait_until):
    first = empty_cluster.scheduler
    second, client, listener, end = await a_pair(first)
    await wait_until(lambda: client.is_connected and seen_by(second)[-1:] == [(1, True)])
    client.cancel("r", 0)
    await wait_until(lambda: first.of("cancellation"))
    second.epoch = 2
    second.say()
    await wait_until(lambda: listener.num_connected == 2)
    client.cancel("s", 0)
    await wait_until(lambda: second.of("cancellation"))
    assert [c.request_id for c in second.of("cancellation")] == ["s"]
    assert [c.request_id for c in first.of("cancellation")] == ["r"]
    await wait_until(lambda: seen_by(first)[-1] == (2, True))
    await end()


async def test_a_former_leader_is_not_obeyed(empty_cluster, wait_until):
    first = empty_cluster.scheduler
    second, client, listener, end = await a_pair(first)
    await wait_until(lambda: client.epoch == 1)
    second.epoch = 2
    second.say(placements=[a_placement("r")])
    await wait_until(lambda: listener.placed_in == [2])
    first.say(placements=[a_placement("r")])
    await wait_until(lambda: listener.num_stale)
    assert listener.placed_in == [2]
    await end()


async def test_a_standby_hears_when_the_leader_resigns_or_its_stream_ends(empty_cluster, wait_until):
    first = empty_cluster.scheduler
    second, client, _, end = await a_pair(first)
    await wait_until(lambda: seen_by(second)[-1:] == [(1, True)])
    first.say(resigned=True)
    await wait_until(lambda: seen_by(second)[-1] == (1, False))
    assert client.disconnected_at is not None
    first.epoch = 3
    first.say()
    await wait_until(lambda: seen_by(second)[-1] == (3, True))
    await first.stop()
    await wait_until(lambda: seen_by(second)[-1] == (3, False))
    await end()
