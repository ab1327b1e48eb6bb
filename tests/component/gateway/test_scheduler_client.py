"""The Place stream by itself."""

from __future__ import annotations

import asyncio

from hortator.gateway.client.scheduler import SchedulerClient
from hortator.rpc.scheduling.v1 import scheduling_pb2


class Listener:
    """Notes what the scheduler says; `on_rejected` may do more."""

    def __init__(self) -> None:
        self.num_connected = 0
        self.on_rejected = lambda _rejection: None

    def scheduler_connected(self) -> None:
        self.num_connected += 1

    def placed(self, placement) -> None: ...

    def rejected(self, rejection) -> None:
        self.on_rejected(rejection)

    def retracted(self, retraction) -> None: ...

    def placement_was_stale(self) -> None: ...


async def ended(task) -> None:
    """The task is over soon, whether cancelled or not."""
    await asyncio.wait({task}, timeout=5)
    assert task.done()


async def test_a_close_that_meets_a_failure_still_ends_the_client(empty_cluster, wait_until):
    listener = Listener()
    client = SchedulerClient([empty_cluster.scheduler.address], gateway_id="gw", events=listener)
    task = asyncio.create_task(client.run())

    def fail_while_closing(_rejection):
        client.close()
        raise RuntimeError("both at once")

    listener.on_rejected = fail_while_closing
    await wait_until(lambda: client.is_connected)
    empty_cluster.scheduler.say(rejections=[scheduling_pb2.Rejection(request_id="r")])
    await ended(task)


async def test_a_failing_listener_costs_a_stream_and_not_the_gateway(empty_cluster, wait_until):
    listener = Listener()
    client = SchedulerClient([empty_cluster.scheduler.address], gateway_id="gw", events=listener)
    task = asyncio.create_task(client.run())

    def fail(_rejection):
        raise RuntimeError("a bug")

    listener.on_rejected = fail
    await wait_until(lambda: client.is_connected)
    empty_cluster.scheduler.say(rejections=[scheduling_pb2.Rejection(request_id="r")])
    await wait_until(lambda: listener.num_connected == 2)
    client.close()
    await ended(task)


async def test_outcomes_are_kept_while_nobody_is_there_and_announcements_are_not(empty_cluster, wait_until):
    scheduler = empty_cluster.scheduler
    await scheduler.stop()
    client = SchedulerClient([scheduler.address], gateway_id="gw", events=Listener(), max_backoff_s=0.1)
    task = asyncio.create_task(client.run())
    client.cancel("gone", 3)
    client.prefill_finished(request_id="r", attempt=0, num_prompt_tokens=1, max_output_tokens=1)
    await scheduler.start()
    await wait_until(lambda: scheduler.of("cancellation"))
    assert [(c.request_id, c.attempt) for c in scheduler.of("cancellation")] == [("gone", 3)]
    assert not scheduler.of("prefill_finished")
    client.close()
    await ended(task)
