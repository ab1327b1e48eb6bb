from __future__ import annotations

import asyncio

import grpc
import pytest

from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.runtime.rpc_errors import details_of


async def test_a_snapshot_shows_workers_ranks_queues_and_the_newest_placements(bench):
    await bench.worker()
    gateway = await bench.gateway()
    for number in range(3):
        await gateway.announce(f"r{number}", num_prompt_tokens=100)
    await gateway.wait_placements(1)
    admin = await bench.admin()
    snapshot = (await admin.Snapshot(pb.SnapshotRequest(num_recent_placements=1))).snapshot
    assert snapshot.policy == "staggered"
    assert snapshot.epoch == bench.app.shell.epoch
    assert snapshot.num_gateways == 1
    assert snapshot.num_waiting + snapshot.num_in_flight == 3
    (group,) = snapshot.groups
    assert (group.worker_id, group.boot_id, group.phase) == ("w", "b1", pb.PHASE_AGGREGATED)
    assert [rank.dp_rank for rank in group.ranks] == [0, 1]
    assert group.ranks[0].chunk_budget_tokens == 1000
    (placement,) = snapshot.recent_placements
    assert placement.worker_address == "127.0.0.1:4001"


async def test_rejections_and_finished_requests_are_counted_in_the_snapshot(start_scheduler):
    bench = await start_scheduler(core={"max_waiting_requests": 1})
    gateway = await bench.gateway()
    await gateway.announce("r1", "r2")
    await gateway.wait_rejections(1)
    await gateway.finish("r1")
    await bench.until(lambda: bench.app.shell.tally.num_finished == 1)
    snapshot = (await (await bench.admin()).Snapshot(pb.SnapshotRequest())).snapshot
    assert dict(snapshot.num_rejected) == {"queue_full_requests": 1}
    assert snapshot.num_finished == 1
    assert not snapshot.recent_placements


async def test_watch_gives_one_snapshot_now_and_more_in_time(bench):
    admin = await bench.admin()
    call = admin.Watch(pb.WatchRequest(interval_s=0.1))
    first = (await call.read()).snapshot
    await bench.worker()
    while not (snapshot := (await call.read()).snapshot).groups:
        assert snapshot.at_s > first.at_s
    call.cancel()


@pytest.mark.parametrize("interval_s", [0.0, 0.05, -1.0, float("nan"), float("inf")])
async def test_watch_refuses_an_interval_that_would_be_too_short_or_endless(bench, interval_s):
    call = (await bench.admin()).Watch(pb.WatchRequest(interval_s=interval_s))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(caught.value).violations[0].field == "interval_s"


async def test_a_drain_is_told_to_the_worker_and_ends_when_it_acknowledged_and_is_empty(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    admin = await bench.admin()
    drain = asyncio.ensure_future(admin.Drain(pb.DrainRequest(worker_id="w", timeout_s=30.0)))
    await worker.next("drain")
    await worker.report(draining=pb.WorkerDraining())
    await gateway.announce("r2")
    await bench.until(lambda: bench.snapshot().num_waiting == 1)  # nothing new there
    assert not drain.done()
    await gateway.finish("r1")
    worker.included = 1
    await worker.report(rank_states=worker.idle())  # what an earlier leader placed is known by the load alone
    assert await drain == pb.DrainResponse(drained=True)


async def test_a_drain_that_times_out_says_what_is_left(bench):
    _, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    response = await (await bench.admin()).Drain(pb.DrainRequest(worker_id="w", timeout_s=0.1))
    assert response == pb.DrainResponse(drained=False, num_in_flight=1)


async def test_an_unknown_worker_cannot_be_drained(bench):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (await bench.admin()).Drain(pb.DrainRequest(worker_id="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "nobody" in caught.value.details()


async def test_the_policy_changes_at_run_time_and_what_waits_is_placed_by_the_new_one(bench):
    gateway = await bench.gateway()
    await gateway.announce("r1")
    await bench.until(lambda: bench.snapshot().num_waiting == 1)
    admin = await bench.admin()
    request = pb.ChangePolicyRequest(policy="immediate-least-tokens")
    assert (await admin.ChangePolicy(request)).previous_policy == "staggered"
    assert (await admin.ChangePolicy(request)).previous_policy == "immediate-least-tokens"
    assert (await admin.Snapshot(pb.SnapshotRequest())).snapshot.policy == "immediate-least-tokens"
    await bench.worker()
    await gateway.wait_placements(1)


async def test_an_unknown_policy_is_refused_with_the_names_allowed(bench):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (await bench.admin()).ChangePolicy(pb.ChangePolicyRequest(policy="best"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details_of(caught.value).violations
    assert violation.field == "policy"
    assert "staggered-plus" in violation.description
    assert bench.app.shell.policy == "staggered"
