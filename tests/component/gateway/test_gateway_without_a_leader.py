"""A gateway whose scheduler is gone, or only silent: it places by itself."""

from __future__ import annotations

import asyncio

import pytest

from hortator.gateway import codec
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.rpc.worker.v1 import worker_pb2

LOST = "hortator_gateway_degraded 1.0"


def metrics(cluster) -> str:
    return cluster.gateway.admin.answer("/metrics")[2].decode()


async def told_of_workers(cluster, wait_until, **told) -> None:
    """The gateway knows what it would need."""
    cluster.scheduler.tell_fleet(**told)
    await wait_until(lambda: cluster.gateway.driver._self_placement._view.groups)


async def alone(cluster, wait_until, **told) -> None:
    """The scheduler has told of its workers and died."""
    await told_of_workers(cluster, wait_until, **told)
    await cluster.scheduler.stop()
    await wait_until(lambda: LOST in metrics(cluster))


def received(cluster):
    return [request for worker in cluster.workers for request in worker.received]


async def test_requests_are_answered_while_no_scheduler_is_there(cluster, expected_text, wait_until):
    before = await cluster.generate()
    await alone(cluster, wait_until)
    replies = await asyncio.gather(*(cluster.generate() for _ in range(6)))
    assert [reply.text for reply in replies] == [expected_text(8)] * 6
    placed_here = [request for request in received(cluster) if request.degraded]
    assert len(placed_here) == 6
    assert {(request.epoch, request.batch_id, request.dispatch_seq) for request in placed_here} == {
        (1, "", 0)
    }
    assert all(any(request.degraded for request in worker.received) for worker in cluster.workers)
    assert before.completion is not None
    text = metrics(cluster)
    assert 'hortator_gateway_placements_total{by="scheduler"} 1.0' in text
    assert 'hortator_gateway_placements_total{by="gateway"} 6.0' in text


async def test_what_waited_when_the_scheduler_went_is_placed_too(cluster, expected_text, wait_until):
    cluster.scheduler.is_placing = False
    call = cluster.call()
    await wait_until(lambda: cluster.scheduler.of("announcement"))
    await alone(cluster, wait_until)
    assert (await cluster.read(call)).text == expected_text(8)
    (request,) = received(cluster)
    assert (request.attempt, request.degraded) == (1, True)


async def test_a_scheduler_that_comes_back_places_again_and_hears_what_was_withdrawn(
    cluster, expected_text, wait_until
):
    await alone(cluster, wait_until)
    call = cluster.call(max_tokens=400)
    await wait_until(lambda: received(cluster))
    cluster.scheduler.epoch = 2
    await cluster.scheduler.start()
    await wait_until(lambda: cluster.scheduler.of("cancellation"))
    assert not cluster.scheduler.of("announcement"), "it runs: the scheduler need not know"
    assert (await cluster.generate()).text == expected_text(8)
    assert (await cluster.read(call)).text == expected_text(400)
    assert [request.degraded for request in received(cluster) if request.sampling.max_tokens == 8] == [False]
    assert LOST not in metrics(cluster)


async def test_a_silent_leader_that_comes_back_places_nothing_that_runs(cluster, expected_text, wait_until):
    """It was announced to that leader, which places it the moment it goes on: too late."""
    scheduler = cluster.scheduler
    scheduler.is_placing, scheduler.is_silent = False, True
    await told_of_workers(cluster, wait_until, heartbeat_s=0.1)
    for worker in cluster.workers:
        worker.is_running = False
    call = cluster.call()
    await wait_until(lambda: received(cluster))
    assert LOST in metrics(cluster)
    scheduler.place_held()
    await wait_until(lambda: LOST not in metrics(cluster))
    await wait_until(lambda: len(scheduler.of("cancellation")) == 2)
    assert {(c.attempt) for c in scheduler.of("cancellation")} == {0}
    for worker in cluster.workers:
        worker.is_running = True
    assert (await cluster.read(call)).text == expected_text(8)
    (request,) = received(cluster)
    assert (request.attempt, request.degraded) == (1, True)


async def test_a_request_with_a_key_waits_for_a_scheduler(cluster, expected_text, wait_until):
    await alone(cluster, wait_until)
    call = cluster.call(idempotency_key="k")
    assert (await cluster.generate()).text == expected_text(8)
    assert [bool(request.key_hash) for request in received(cluster)] == [False]
    await cluster.scheduler.start()
    assert (await cluster.read(call)).text == expected_text(8)
    assert [request.degraded for request in received(cluster) if request.key_hash] == [False]


async def test_between_prefill_and_decode_nobody_is_needed_either(disaggregated, expected_text, wait_until):
    cluster = disaggregated
    prefill, decode = cluster.workers
    prefill.is_running = False
    await told_of_workers(cluster, wait_until)
    waiting = cluster.call()
    await wait_until(lambda: prefill.received)
    await cluster.scheduler.stop()
    await wait_until(lambda: LOST in metrics(cluster))
    prefill.is_running = True
    assert (await cluster.read(waiting)).text == expected_text(8)
    assert (await cluster.generate()).text == expected_text(8)
    assert [(r.attempt, r.degraded) for r in prefill.received] == [(0, False), (1, True)]
    assert [(r.attempt, r.degraded) for r in decode.received] == [(1, True), (2, True)]
    assert [r.mode for r in decode.received] == [worker_pb2.MODE_DECODE_ONLY] * 2


async def test_what_a_worker_of_a_newer_epoch_refuses_is_announced_to_its_leader(
    empty_cluster, expected_text, wait_until
):
    """The gateway is cut off; the others follow another leader already. It will hear of that one too."""
    cluster = empty_cluster
    worker = await cluster.add_worker("w0")
    await cluster.start_gateway()
    await alone(cluster, wait_until)
    worker.refuse = worker_pb2.Completion(message="placed in epoch 1, this worker is in epoch 2")
    call = cluster.call()
    await wait_until(lambda: worker.received)
    await wait_until(lambda: "hortator_gateway_refusals_total 1.0" in metrics(cluster))
    worker.refuse = None
    cluster.scheduler.epoch = 2
    await cluster.scheduler.start()
    assert (await cluster.read(call)).text == expected_text(8)
    assert [(r.attempt, r.epoch, r.degraded) for r in worker.received] == [(1, 1, True), (1, 2, False)]
    assert not cluster.scheduler.of("placement_refused")


async def test_a_worker_that_dies_meanwhile_is_replaced(cluster, expected_text, wait_until):
    for worker in cluster.workers:
        worker.pass_s = 0.01
    await alone(cluster, wait_until)
    calls = [cluster.call(max_tokens=40) for _ in range(4)]
    firsts = await asyncio.gather(*(cluster.read(call, num_tokens=3) for call in calls))
    await cluster.workers[0].kill()
    rests = await asyncio.gather(*(cluster.read(call) for call in calls))
    for first, rest in zip(firsts, rests, strict=True):
        assert first.text + rest.text == expected_text(40)
    assert sorted(rest.completion.timings.num_replacements for rest in rests) == [0, 0, 1, 1]


async def test_what_finds_no_room_waits(cluster, expected_text, wait_until):
    for worker in cluster.workers:
        worker.is_running = False
    await alone(cluster, wait_until, num_gateways=2)
    calls = [cluster.call("x" * 40) for _ in range(5)]
    await wait_until(lambda: len(received(cluster)) == 2)
    await asyncio.sleep(0.1)
    assert len(received(cluster)) == 2, "50 tokens of each rank are ours"
    for worker in cluster.workers:
        worker.is_running = True
    replies = await asyncio.gather(*(cluster.read(call) for call in calls))
    assert [reply.text for reply in replies] == [expected_text(8)] * 5


async def test_a_gateway_that_can_place_is_ready(empty_cluster, wait_until):
    cluster = empty_cluster
    worker = await cluster.add_worker("w0")
    gateway = await cluster.start_gateway(ready_without_scheduler_s=0.0)
    await alone(cluster, wait_until)
    assert gateway.admin.answer("/readyz")[0] == 200
    await worker.kill()
    call = cluster.call()
    await wait_until(lambda: b"no scheduler" in gateway.admin.answer("/readyz")[2])
    call.cancel()


@pytest.mark.parametrize("degraded_after_s", [0.0, 0.1])
async def test_it_can_be_switched_off(empty_cluster, wait_until, degraded_after_s):
    cluster = empty_cluster
    await cluster.add_worker("w0")
    await cluster.start_gateway(degraded_after_s=degraded_after_s)
    await told_of_workers(cluster, wait_until)
    await cluster.scheduler.stop()
    await wait_until(lambda: cluster.gateway.scheduler.disconnected_at is not None)
    call = cluster.call()
    await asyncio.sleep(0.6)
    assert bool(received(cluster)) is bool(degraded_after_s)
    call.cancel()


async def test_without_word_of_workers_requests_wait(cluster, wait_until):
    """As with a scheduler of an older version."""
    await cluster.scheduler.stop()
    await wait_until(lambda: cluster.gateway.scheduler.disconnected_at is not None)
    call = cluster.call()
    await asyncio.sleep(0.6)
    assert not received(cluster)
    assert LOST not in metrics(cluster)
    call.cancel()


def test_a_view_that_makes_no_sense_is_left_out():
    good = {"tokens_per_block": 4, "prefill_load_tokens": [0], "batch_size": [0], "kv_blocks_used": [0]}
    groups = [
        scheduling_pb2.GroupView(worker_id="good", phase=scheduling_pb2.PHASE_DECODE, **good),
        scheduling_pb2.GroupView(worker_id="no phase", **good),
        scheduling_pb2.GroupView(
            worker_id="no blocks", phase=scheduling_pb2.PHASE_DECODE, **(good | {"tokens_per_block": 0})
        ),
        scheduling_pb2.GroupView(
            worker_id="columns", phase=scheduling_pb2.PHASE_DECODE, **(good | {"kv_blocks_used": [0, 0]})
        ),
        scheduling_pb2.GroupView(
            worker_id="nan", phase=scheduling_pb2.PHASE_DECODE, full_pass_s=float("nan"), **good
        ),
    ]
    view = codec.fleet_view(scheduling_pb2.FleetView(groups=groups, heartbeat_s=float("inf")))
    assert [group.worker_id for group in view.groups] == ["good", "nan"]
    assert [group.full_pass_s for group in view.groups] == [0.0, 0.0]
    assert (view.num_gateways, view.heartbeat_s) == (1, 0.0)
