"""Workers that talk nonsense over their stream: nothing wedges, others are served, and sense is enough to return."""

from __future__ import annotations

import asyncio
import contextlib
import math

import grpc.aio
import pytest

from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.scheduler.registry import MAX_NONSENSE, MAX_NONSENSE_ON_STREAM

HUGE = 2**32 - 1
BEYOND = 2**64 - 1


def state_of(bench, worker="w"):
    return next(group.state for group in bench.snapshot().groups if group.spec.group_id == worker)


def dropped(bench, reason):
    return bench.app.shell.metrics._dropped.of(reason).value


def a_pass(worker, **changes):
    fields = {"forward_pass_id": 7, "duration_s": 0.1, "rank_states": worker.idle()}
    return {"forward_pass_ended": pb.ForwardPassEnded(**{**fields, **changes})}


def loads(**columns):
    zeros = [0, 0]
    fields = {"prefill_load_tokens": zeros, "batch_size": zeros, "kv_blocks_used": zeros}
    return {"rank_states": pb.RankStates(**{**fields, **columns})}


NONSENSE = {
    "a-load-that-cannot-be": lambda w: loads(prefill_load_tokens=[HUGE, 0]),
    "more-requests-than-can-be": lambda w: loads(batch_size=[HUGE, 0], num_waiting=[HUGE, 0]),
    "more-blocks-than-can-be": lambda w: loads(kv_blocks_used=[0, HUGE]),
    "too-many-ranks": lambda w: loads(kv_blocks_used=[0, 0, 0]),
    "a-rank-that-is-not-there": lambda w: loads(blocks_changed=[pb.BlocksChanged(dp_rank=2, stored=[1])]),
    "a-duration-that-is-no-number": lambda w: a_pass(w, duration_s=math.nan),
    "a-duration-without-end": lambda w: a_pass(w, duration_s=math.inf),
    "a-duration-before-its-beginning": lambda w: a_pass(w, duration_s=-1.0),
    "a-prediction-that-is-no-number": lambda w: {
        "forward_pass_started": pb.ForwardPassStarted(forward_pass_id=7, predicted_s=math.nan)
    },
    "more-prefill-than-a-pass-has": lambda w: a_pass(w, pass_prefill_tokens=[HUGE, 0]),
    "an-epoch-that-nobody-can-follow": lambda w: {"leader_seen": pb.LeaderSeen(epoch=BEYOND, is_there=True)},
    "another-boot-in-mid-stream": lambda w: {"boot_id": "b2", **loads()},
    "another-name-in-mid-stream": lambda w: {"worker_id": "x", **loads()},
    "an-old-sequence": lambda w: {"sequence": 1, **loads()},
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
async def test_a_worker_that_talks_nonsense_is_given_nothing_until_it_makes_sense(bench, nonsense):
    mad, sane = await bench.worker("w"), await bench.worker("other")
    gateway = await bench.gateway()
    for _ in range(MAX_NONSENSE):
        await mad.report(**nonsense(mad))
    await bench.until(lambda: state_of(bench) == "suspect")
    for number in range(1, 4):
        await gateway.announce(f"r{number}")
        await gateway.wait_placements(number)
        await sane.end_pass(await sane.next("manifest"))
    assert {placement.worker_id for placement in gateway.placements} == {"other"}
    await mad.report(**loads())
    await bench.until(lambda: state_of(bench) == "ready")
    assert sum(
        dropped(bench, reason)
        for reason in ("invalid_report", "wrong_boot", "wrong_worker", "stale_sequence")
    )
    assert bench.app.shell.is_leader
    text = bench.app._admin.answer("/metrics")[2].decode()
    assert 'hortator_scheduler_events_total{event="ReportsRefused"} 1.0' in text


async def test_a_report_of_a_kind_that_only_newer_versions_know_is_no_nonsense(bench):
    worker = await bench.worker()
    for _ in range(2 * MAX_NONSENSE_ON_STREAM):
        await worker.report()
    await worker.end_pass()
    await bench.until(lambda: dropped(bench, "invalid_report") == 2 * MAX_NONSENSE_ON_STREAM)
    assert state_of(bench) == "ready"


async def test_every_report_twice_changes_nothing(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    for number in range(20):
        await worker.end_pass()
        await worker.report(**a_pass(worker), sequence=worker.sequence)
        await gateway.announce(f"r{number}")
        await gateway.wait_placements(number + 1)
        worker.included = (await worker.next("manifest")).dispatch_seq
    assert state_of(bench) == "ready"
    assert dropped(bench, "stale_sequence") == 20


async def test_a_worker_whose_sequence_jumped_begins_anew(bench):
    """What it was given goes on: the same boot is back in time."""
    worker, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    manifest = await worker.next("manifest")
    await worker.report(**loads(), sequence=BEYOND)
    for number in range(MAX_NONSENSE_ON_STREAM):
        await worker.report(**loads(), sequence=number)
    code, details = await worker.wait_end()
    assert code is grpc.StatusCode.ABORTED
    assert "made sense" in details
    again = await bench.worker()
    await again.end_pass(manifest)
    await bench.until(lambda: state_of(bench) == "ready")
    await gateway.announce("r2")
    await gateway.wait_placements(2)
    assert gateway.retractions == []


async def test_one_mad_witness_ends_no_lead(bench):
    """An epoch beyond all others would be followed by everybody, and by none after it."""
    epoch = bench.app.shell.epoch
    worker, gateway = await bench.worker("w"), await bench.gateway()
    await worker.report(leader_seen=pb.LeaderSeen(epoch=BEYOND))
    await gateway.send({"leader_seen": pb.LeaderSeen(epoch=BEYOND)})
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    assert bench.app.shell.epoch == epoch
    assert dropped(bench, "invalid_report") == dropped(bench, "invalid_gateway_event") == 1


async def test_whoever_looks_is_answered_whatever_a_worker_says_of_itself(bench):
    """A figure that fits into no message must not blind operators."""
    worker, gateway = await bench.worker(), await bench.gateway()
    await worker.report(**loads(prefill_load_tokens=[1 << 30, 0], batch_size=[1 << 30, 1 << 30]))
    await worker.report(**loads(kv_blocks_used=[HUGE, 0]))
    await gateway.announce("r1")
    admin = await bench.admin()
    await bench.until(lambda: dropped(bench, "invalid_report") == 1)
    snapshot = (await admin.Snapshot(pb.SnapshotRequest())).snapshot
    assert [group.worker_id for group in snapshot.groups] == ["w"]


async def test_words_about_requests_that_nobody_knows_change_nothing(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    nobody = [f"nobody-{number}" for number in range(1000)]
    keyed = [pb.KeyedRequest(key_hash=b"k%d" % number, request_id=name) for number, name in enumerate(nobody)]
    before = bench.snapshot().num_in_flight
    for _ in range(5):
        await worker.report(batch_split=pb.BatchSplit(batch_id="none", request_ids=nobody))
        await worker.report(keyed_ends=pb.KeyedRequests(requests=keyed))
        await worker.report(keyed_requests=pb.KeyedRequests(requests=keyed))
    await worker.report(keyed_requests=pb.KeyedRequests())
    await worker.end_pass()
    machine = bench.app.shell._driver._machine
    await bench.until(lambda: machine.fleet.groups["w"].forward_pass_id == 1)
    assert bench.snapshot().num_in_flight == before == 1
    assert not machine.keys.leftovers
    machine.check_invariants()


async def test_a_worker_that_speaks_but_runs_nothing_is_lost_and_may_come_back(start_scheduler):
    core = {"watchdog_min_s": 0.2, "watchdog_stall_s": 0.6, "watchdog_factor": 0.01, "warmup_passes": 0}
    bench = await start_scheduler(core=core)
    worker, gateway = await bench.worker(), await bench.gateway()
    await worker.end_pass()
    await gateway.announce("r1")
    await gateway.wait_placements(1)

    async def speak():
        while not worker.call.done():
            await worker.report(**loads())
            await asyncio.sleep(0.05)

    speaking = asyncio.create_task(speak())
    code, details = await worker.wait_end()
    assert code is grpc.StatusCode.ABORTED
    assert "runs no pass" in details
    with contextlib.suppress(grpc.aio.BaseError, asyncio.InvalidStateError):
        await speaking
    (retraction,) = await gateway.wait_retractions(1)
    assert retraction.reason == pb.RETRACT_REASON_WORKER_LOST
    text = bench.app._admin.answer("/metrics")[2].decode()
    assert 'hortator_scheduler_workers_lost_total{ep_group="w",reason="stalled"} 1.0' in text
    await bench.worker()
    await gateway.announce("r1", attempt=1)
    await gateway.wait_placements(2)
