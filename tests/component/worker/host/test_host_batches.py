"""Batches of a scheduler: admitted as one, split, corrected; and what schedulers hear about it."""

from __future__ import annotations

import asyncio
import math

from hortator.rpc.scheduling.v1 import scheduling_pb2 as sched
from hortator.rpc.worker.v1 import worker_pb2 as pb
from hortator.worker.client.report import DEFAULT_HEARTBEAT_S


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # what is awaited is inside the worker
            await asyncio.sleep(0)


def member(batch_id: str = "b1", size: int = 2, seq: int = 1, epoch: int = 1) -> dict:
    return {"batch_id": batch_id, "batch_size": size, "dispatch_seq": seq, "epoch": epoch}


async def test_members_from_two_gateways_enter_as_one_after_their_manifest(
    an_engine, a_worker, a_gateway, scheduler
):
    engine = an_engine()
    worker = await a_worker(
        engine, scheduler_addresses=(scheduler.address,), gate_min_idle_s=1, gate_max_idle_s=1
    )
    one, two = await a_gateway(worker, "g1"), await a_gateway(worker, "g2")
    scheduler.send_manifest("b1", "r1", "r2")
    await until(lambda: not worker.host._gate.is_idle)
    await one.submit("r1", **member())
    await until(lambda: worker.host.num_live == 1)
    assert engine.batches == []
    await two.submit("r2", **member())
    await until(lambda: engine.batches)
    assert engine.batches == [["r1#0", "r2#0"]]


async def test_members_that_come_before_their_manifest_enter_as_one(
    an_engine, a_worker, a_gateway, scheduler
):
    engine = an_engine()
    worker = await a_worker(engine, scheduler_addresses=(scheduler.address,), gate_manifest_wait_s=5)
    gateway = await a_gateway(worker)
    await gateway.submit("r1", **member(size=3))
    await gateway.submit("r2", **member(size=3))
    await until(lambda: worker.host.num_live == 2)
    assert engine.batches == []
    # The third was cancelled before it was dispatched: the manifest knows.
    scheduler.send_manifest("b1", "r1", "r2")
    await until(lambda: engine.batches)
    assert engine.batches == [["r1#0", "r2#0"]]


async def test_a_late_member_goes_back_and_the_rest_runs(an_engine, a_worker, a_gateway, scheduler):
    engine = an_engine()
    worker = await a_worker(engine, scheduler_addresses=(scheduler.address,))
    gateway = await a_gateway(worker)
    scheduler.send_manifest("b1", "r1", "r2", seq=1)
    await gateway.submit("r1", **member())
    split = await scheduler.report("batch_split")
    assert split.batch_split == sched.BatchSplit(batch_id="b1", request_ids=["r2"])
    await until(lambda: engine.batches)
    assert engine.batches == [["r1#0"]]
    await gateway.submit("r2", **member())
    completion = await gateway.completion("r2")
    assert completion.reason == pb.COMPLETION_REASON_REFUSED
    assert completion.field == ""
    # Without any pass the scheduler soon hears that nothing of the dispatch is outstanding.
    await scheduler.until(lambda: scheduler.reports[-1].included_dispatch_seq == 1)


async def test_a_member_at_fault_does_not_keep_the_others_out(an_engine, a_worker, a_gateway):
    engine = an_engine()
    gateway = await a_gateway(await a_worker(engine))
    await gateway.submit("r1", **member(size=3))
    await gateway.submit("bad", prompt=(), **member(size=3))
    await gateway.submit("r3", **member(size=3))
    assert (await gateway.completion("bad")).field == "prompt"
    assert engine.batches == [["r1#0", "r3#0"]]


async def test_a_correction_shrinks_the_batch(an_engine, a_worker, a_gateway, scheduler):
    engine = an_engine()
    worker = await a_worker(
        engine, scheduler_addresses=(scheduler.address,), gate_min_idle_s=5, gate_max_idle_s=5
    )
    gateway = await a_gateway(worker)
    scheduler.send_manifest("b1", "r1", "r2")
    await gateway.submit("r1", **member())
    await until(lambda: worker.host.num_live == 1)
    scheduler.send(correction=sched.Correction(request_id="r2"))
    await until(lambda: engine.batches)
    assert engine.batches == [["r1#0"]]


async def test_a_correction_ends_a_request_that_runs(an_engine, a_worker, a_gateway, scheduler):
    engine = an_engine()
    worker = await a_worker(engine, scheduler_addresses=(scheduler.address,))
    gateway = await a_gateway(worker)
    await gateway.submit("r1", max_tokens=100)
    await until(lambda: engine.running)
    await until(lambda: worker.links.num_up == 1)
    scheduler.send(correction=sched.Correction(request_id="r1"))
    assert (await gateway.completion("r1")).reason == pb.COMPLETION_REASON_ABORTED


async def test_a_lost_gateway_shrinks_the_batch_of_the_others(an_engine, a_worker, a_gateway):
    engine = an_engine()
    worker = await a_worker(engine, gate_manifest_wait_s=5)
    one, two = await a_gateway(worker, "g1"), await a_gateway(worker, "g2")
    await one.submit("r1", **member(size=2))
    await until(lambda: worker.host.num_live == 1)
    await one.close()
    await until(lambda: worker.host.num_live == 0)
    await two.submit("r2", **member(size=2))
    await until(lambda: engine.batches)
    assert engine.batches == [["r2#0"]]


def _changes(states):
    """(DP rank, stored, removed) of every rank with changes."""
    return [(change.dp_rank, list(change.stored), list(change.removed)) for change in states.blocks_changed]


class TestReports:
    async def test_the_first_message_says_everything(self, an_engine, a_worker, scheduler):
        worker = await a_worker(an_engine(), scheduler_addresses=(scheduler.address,), phase="prefill")
        first = await scheduler.report("hello")
        assert (first.worker_id, first.boot_id, first.sequence) == ("w", worker.host.identity.boot_id, 1)
        assert first.hello.address == worker.host.identity.address
        assert first.hello.phase == sched.PHASE_PREFILL
        assert first.hello.chunk_budget_tokens == 64
        assert list(first.hello.rank_states.kv_blocks_used) == [0, 0]

    async def test_each_pass_is_reported_with_the_loads_and_the_dispatches_in_them(
        self, an_engine, a_worker, a_gateway, scheduler
    ):
        engine = an_engine()
        worker = await a_worker(engine, scheduler_addresses=(scheduler.address,))
        gateway = await a_gateway(worker)
        scheduler.send_manifest("b1", "r1", "r2", seq=1)
        await gateway.submit("r1", prompt=(1, 2, 3), dp_rank=0, **member())
        await gateway.submit("r2", prompt=(1, 2, 3, 4, 5), dp_rank=1, **member())
        await until(lambda: engine.batches)
        engine.start_pass()
        started = await scheduler.report("forward_pass_started")
        assert started.forward_pass_started.forward_pass_id == 1
        assert list(started.forward_pass_started.rank_states.prefill_load_tokens) == [3, 5]
        assert (started.epoch, started.included_dispatch_seq) == (1, 1)
        engine.end_pass()
        ended = await scheduler.report("forward_pass_ended")
        assert ended.forward_pass_ended.duration_s == 0.5
        assert list(ended.forward_pass_ended.rank_states.prefill_load_tokens) == [0, 0]

    async def test_what_each_rank_ran_is_told_in_the_order_of_the_ranks(self, an_engine, a_worker, scheduler):
        """The scheduler learns pass times and chunk utilization from it."""
        engine = an_engine()
        worker = await a_worker(engine, scheduler_addresses=(scheduler.address,))
        await until(lambda: worker.links.num_up == 1)
        engine.start_pass()
        engine.end_pass(pass_prefill_tokens=(48, 16), pass_decode_tokens=(2, 5))
        ended = (await scheduler.report("forward_pass_ended")).forward_pass_ended
        assert list(ended.pass_prefill_tokens) == [48, 16]
        assert list(ended.pass_decode_tokens) == [2, 5]

    async def test_blocks_that_became_reusable_or_went_are_told_with_the_pass(
        self, an_engine, a_worker, scheduler
    ):
        """With the start what was evicted to form it, with the end what it computed; ranks without changes: nothing."""
        engine = an_engine()
        worker = await a_worker(engine, scheduler_addresses=(scheduler.address,))
        await until(lambda: worker.links.num_up == 1)
        engine.start_pass(removed_blocks=((), (2**63 + 5,)))
        engine.end_pass(stored_blocks=((11, 12), (13,)), removed_blocks=((9,), ()))
        started = (await scheduler.report("forward_pass_started")).forward_pass_started
        assert _changes(started.rank_states) == [(1, [], [2**63 + 5])]
        ended = (await scheduler.report("forward_pass_ended")).forward_pass_ended
        assert _changes(ended.rank_states) == [(0, [11, 12], [9]), (1, [13], [])]

    async def test_a_scheduler_that_comes_later_is_told_all_blocks_that_are_there(
        self, an_engine, a_worker, scheduler
    ):
        """In its hello: what is stored and was not removed since."""
        engine = an_engine()
        worker = await a_worker(engine, scheduler_addresses=(scheduler.address,))
        await until(lambda: worker.links.num_up == 1)
        assert _changes((await scheduler.report("hello")).hello.rank_states) == []
        engine.start_pass()
        engine.end_pass(stored_blocks=((11, 12), (13,)))
        engine.start_pass(removed_blocks=((12,), ()))
        engine.end_pass(stored_blocks=((14,), ()))
        await scheduler.report("forward_pass_ended", 1)
        port = int(scheduler.address.rpartition(":")[2])
        await scheduler.stop()
        await scheduler.start(port)
        second = await scheduler.report("hello", 1)
        told = [
            (rank, sorted(stored), removed) for rank, stored, removed in _changes(second.hello.rank_states)
        ]
        assert told == [(0, [11, 14], []), (1, [13], [])]

    async def test_sequence_numbers_have_no_gap_and_heartbeats_fill_silence(
        self, an_engine, a_worker, scheduler
    ):
        engine = an_engine()
        await a_worker(engine, scheduler_addresses=(scheduler.address,))
        await scheduler.report("rank_states", 2)
        engine.run_pass()
        await scheduler.report("forward_pass_ended")
        assert [report.sequence for report in scheduler.reports] == list(range(1, len(scheduler.reports) + 1))

    async def test_an_impossible_heartbeat_interval_makes_no_worker_silent_or_loud(
        self, an_engine, a_worker, scheduler
    ):
        """Each stream has its own: one of them reports all the time, the others never, if it is believed."""
        told = (math.nan, math.inf, -math.inf, -1.0, 1e300, 1e-9)
        schedulers = [type(scheduler)() for _ in told]
        for fake, interval_s in zip(schedulers, told, strict=True):
            fake.epoch, fake.heartbeat_interval_s = 0, interval_s
            await fake.start()
        worker = await a_worker(an_engine(), scheduler_addresses=[fake.address for fake in schedulers])
        await until(lambda: worker.links.num_up == len(told))
        await asyncio.sleep(2.5 * DEFAULT_HEARTBEAT_S)
        for fake, interval_s in zip(schedulers, told, strict=True):
            assert 1 <= len(fake.of("rank_states")) <= 5, f"told {interval_s}"
            assert fake.num_streams == 1, f"told {interval_s}"
            await fake.stop()

    async def test_a_probe_is_answered_at_once(self, an_engine, a_worker, scheduler):
        await a_worker(an_engine(), scheduler_addresses=(scheduler.address,))
        await scheduler.report("hello")
        num_before = len(scheduler.of("rank_states"))
        for _ in range(50):
            scheduler.send(probe=sched.Probe())
        # Heartbeats come every 50 ms: 50 answers cannot be heartbeats within the 1 s allowed here.
        async with asyncio.timeout(1):
            await scheduler.until(lambda: len(scheduler.of("rank_states")) >= num_before + 50)

    async def test_every_scheduler_hears_every_pass(self, an_engine, a_worker, scheduler):
        standby = type(scheduler)()
        await standby.start()
        engine = an_engine()
        worker = await a_worker(engine, scheduler_addresses=(scheduler.address, standby.address))
        await until(lambda: worker.links.num_up == 2)
        engine.run_pass()
        await scheduler.report("forward_pass_ended")
        await standby.report("forward_pass_ended")
        await standby.stop()

    async def test_a_scheduler_that_goes_and_comes_back_disturbs_nobody(
        self, an_engine, a_worker, a_gateway, scheduler
    ):
        engine = an_engine()
        worker = await a_worker(engine, scheduler_addresses=(scheduler.address,))
        gateway = await a_gateway(worker)
        await scheduler.report("hello")
        await gateway.submit("r1", max_tokens=3)
        await until(lambda: engine.running)
        engine.run_pass()
        port = int(scheduler.address.rpartition(":")[2])
        await scheduler.stop()
        engine.run_pass()
        await gateway.until(lambda: len(gateway.tokens["r1"]) == 2)
        await scheduler.start(port)
        second = await scheduler.report("hello", 1)
        assert second.sequence == 1
        assert list(second.hello.rank_states.batch_size) == [1, 0]
        engine.run_pass()
        assert (await gateway.completion("r1")).num_output_tokens == 3
