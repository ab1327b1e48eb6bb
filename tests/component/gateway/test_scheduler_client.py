"""The Place stream by itself."""

from __future__ import annotations

import asyncio
import socket

from hortator.gateway.client.scheduler import SchedulerClient
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.runtime.endpoints import Endpoints


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
    client = SchedulerClient(Endpoints([empty_cluster.scheduler.address]), gateway_id="gw", events=listener)
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
    client = SchedulerClient(Endpoints([empty_cluster.scheduler.address]), gateway_id="gw", events=listener)
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
    client = SchedulerClient(
        Endpoints([scheduler.address]), gateway_id="gw", events=Listener(), max_backoff_s=0.1
    )
    task = asyncio.create_task(client.run())
    client.cancel("gone", 3)
    client.prefill_finished(request_id="r", attempt=0, num_prompt_tokens=1, max_output_tokens=1)
    await scheduler.start()
    await wait_until(lambda: scheduler.of("cancellation"))
    assert [(c.request_id, c.attempt) for c in scheduler.of("cancellation")] == [("gone", 3)]
    assert not scheduler.of("prefill_finished")
    client.close()
    await ended(task)


class Names:
    """A name service with one name."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str) -> list[str]:
        assert host == "svc-scheduler"
        return list(self.answers)


async def test_a_scheduler_whose_address_is_another_one_now_is_left_for_that(empty_cluster, wait_until):
    """Nothing tells a gateway that a node is gone: its connections just hang. The name service does."""
    first = empty_cluster.scheduler
    port = int(first.address.rpartition(":")[2])
    second = type(first)()
    second.epoch = first.epoch + 1
    await second.start(host="127.0.0.3", port=port)
    names, listener = Names("127.0.0.1"), Listener()
    endpoints = Endpoints([f"svc-scheduler:{port}"], resolve=names, interval_s=0.05)
    client = SchedulerClient(endpoints, gateway_id="gw", events=listener)
    task = asyncio.create_task(client.run())
    await wait_until(lambda: listener.num_connected == 1)
    names.answers = []  # a name service that has nothing to say changes nothing
    await asyncio.sleep(0.2)
    assert client.num_connects == 1
    names.answers = ["127.0.0.3"]
    await wait_until(lambda: listener.num_connected == 2)
    client.cancel("r", 0)
    await wait_until(lambda: second.of("cancellation"))
    assert not first.of("cancellation")
    client.close()
    await ended(task)
    await second.stop()


async def test_an_address_that_does_not_answer_is_left_as_soon_as_the_name_has_another(
    empty_cluster, wait_until
):
    """A socket that nobody reads swallows what is sent there, as the address of a lost node does."""
    port = int(empty_cluster.scheduler.address.rpartition(":")[2])
    silent = socket.create_server(("127.0.0.4", port))
    names, listener = Names("127.0.0.4"), Listener()
    endpoints = Endpoints([f"svc-scheduler:{port}"], resolve=names, interval_s=0.05)
    client = SchedulerClient(endpoints, gateway_id="gw", events=listener)
    task = asyncio.create_task(client.run())
    await asyncio.sleep(0.3)
    names.answers = ["127.0.0.1"]
    started_at = asyncio.get_running_loop().time()
    await wait_until(lambda: listener.num_connected == 1)
    assert asyncio.get_running_loop().time() - started_at < 1.0
    client.close()
    await ended(task)
    silent.close()
