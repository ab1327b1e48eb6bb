"""Requests with an idempotency key outlive their gateway, for another one that may come."""

from __future__ import annotations

import asyncio

import pytest

from hortator.rpc.scheduling.v1 import scheduling_pb2 as sched
from hortator.rpc.worker.v1 import worker_pb2 as pb

KEY = b"key of the client"
KEYED = {"key_hash": KEY, "request_hash": b"what it asks for"}


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # what is awaited is inside the worker
            await asyncio.sleep(0)


async def a_while() -> None:
    """Long enough for whatever should not happen."""
    await asyncio.sleep(0.05)


@pytest.fixture
async def orphaned(an_engine, a_worker, a_gateway, scheduler):
    """A worker whose request `old`, of 5 tokens, has lost its gateway after the first two."""
    engine = an_engine()
    worker = await a_worker(engine, scheduler_addresses=(scheduler.address,), orphan_keep_s=0.4)
    worker.engine = engine
    gateway = await a_gateway(worker)
    await gateway.submit("old", max_tokens=5, **KEYED)
    await until(lambda: engine.running)
    engine.run_pass()
    engine.run_pass()
    await gateway.until(lambda: len(gateway.tokens["old"]) == 2)
    await gateway.close()
    await until(lambda: worker.host._keyed._orphans)  # nobody else can tell
    return worker


async def attach(gateway, name="new", key_hash=KEY):
    await gateway.submit(name, mode=pb.MODE_ATTACH, key_hash=key_hash)


async def key_ended(scheduler):
    report = await scheduler.report("keyed_ends")
    (ended,) = report.keyed_ends.requests
    assert ended.key_hash == KEY
    return ended


async def test_an_orphan_goes_on_and_another_gateway_gets_all_of_its_tokens(orphaned, a_gateway):
    engine = orphaned.engine
    engine.run_pass()
    gateway = await a_gateway(orphaned, "g2")
    await attach(gateway)
    await gateway.until(lambda: len(gateway.tokens["new"]) == 3)
    engine.run_pass()
    engine.run_pass()
    completion = await gateway.completion("new")
    assert completion.reason == pb.COMPLETION_REASON_LENGTH
    assert completion.num_output_tokens == 5
    assert gateway.tokens["new"] == [186, 193, 200, 207, 214]
    assert engine.batches == [["old#0"]]  # it ran once
    assert engine.aborted == []


async def test_an_orphan_that_has_ended_is_kept_for_its_tokens(orphaned, a_gateway):
    for _ in range(3):
        orphaned.engine.run_pass()
    await until(lambda: not orphaned.engine.running)
    await a_while()
    gateway = await a_gateway(orphaned, "g2")
    await attach(gateway)
    completion = await gateway.completion("new")
    assert completion.num_output_tokens == len(gateway.tokens["new"]) == 5
    await attach(gateway, "again")
    assert (await gateway.completion("again")).reason == pb.COMPLETION_REASON_REFUSED


async def test_after_its_time_an_orphan_is_ended_and_the_scheduler_is_told(orphaned, a_gateway, scheduler):
    ended = await key_ended(scheduler)
    assert ended.request_id == "old"
    assert orphaned.engine.aborted == ["old#0"]
    gateway = await a_gateway(orphaned, "g2")
    await attach(gateway)
    completion = await gateway.completion("new")
    assert (completion.reason, completion.field) == (pb.COMPLETION_REASON_REFUSED, "")


async def test_who_attached_may_end_it_under_the_new_name(orphaned, a_gateway, scheduler):
    gateway = await a_gateway(orphaned, "g2")
    await attach(gateway)
    await gateway.until(lambda: len(gateway.tokens["new"]) == 2)
    await gateway.abort("old")
    await a_while()
    assert orphaned.engine.aborted == []
    await gateway.abort("new")
    assert (await gateway.completion("new")).reason == pb.COMPLETION_REASON_ABORTED
    await asyncio.sleep(0.5)  # the time of an orphan is over
    assert scheduler.of("keyed_ends") == []


async def test_it_can_lose_its_gateway_more_than_once(orphaned, a_gateway):
    second = await a_gateway(orphaned, "g2")
    await attach(second)
    await second.until(lambda: len(second.tokens["new"]) == 2)
    await second.close()
    await until(lambda: orphaned.host._keyed._orphans)
    third = await a_gateway(orphaned, "g3")
    await attach(third, "newest")
    for _ in range(3):
        orphaned.engine.run_pass()
    assert (await third.completion("newest")).num_output_tokens == len(third.tokens["newest"]) == 5


async def test_a_gateway_that_is_still_there_is_told_and_cannot_end_it(an_engine, a_worker, a_gateway):
    """The client's link broke, not the gateway: it will cancel what it no longer has."""
    engine = an_engine()
    worker = await a_worker(engine)
    first, second = await a_gateway(worker, "g1"), await a_gateway(worker, "g2")
    await first.submit("old", max_tokens=3, **KEYED)
    await until(lambda: engine.running)
    engine.run_pass()
    await first.until(lambda: first.tokens["old"])
    await attach(second)
    assert (await first.completion("old")).reason == pb.COMPLETION_REASON_TAKEN_OVER
    await first.abort("old")
    await a_while()
    engine.run_pass()
    engine.run_pass()
    assert (await second.completion("new")).reason == pb.COMPLETION_REASON_LENGTH
    assert len(first.tokens["old"]) == 1
    assert len(second.tokens["new"]) == 3


async def test_without_a_key_it_ends_with_its_gateway(an_engine, a_worker, a_gateway):
    engine = an_engine()
    gateway = await a_gateway(await a_worker(engine))
    await gateway.submit("r1", max_tokens=100)
    await until(lambda: engine.running)
    await gateway.close()
    await until(lambda: engine.aborted == ["r1#0"])


async def test_what_only_prefills_ends_with_its_gateway_and_the_scheduler_is_told(
    an_engine, a_worker, a_gateway, scheduler
):
    engine = an_engine()
    worker = await a_worker(engine, scheduler_addresses=(scheduler.address,), phase="prefill")
    gateway = await a_gateway(worker)
    await gateway.submit("old", mode=pb.MODE_PREFILL_ONLY, **KEYED)
    await until(lambda: engine.running)
    second = await a_gateway(worker, "g2")
    await attach(second)
    assert (await second.completion("new")).reason == pb.COMPLETION_REASON_REFUSED
    await gateway.close()
    assert (await key_ended(scheduler)).request_id == "old"
    assert engine.aborted == ["old#0"]


async def test_tokens_of_earlier_attempts_come_first(an_engine, a_worker, a_gateway):
    engine = an_engine()
    worker = await a_worker(engine)
    gateway = await a_gateway(worker)
    await gateway.submit("old", max_tokens=4, attempt=1, prior_output_ids=[7, 8], **KEYED)
    await until(lambda: engine.running)
    await gateway.close()
    second = await a_gateway(worker, "g2")
    await attach(second)
    engine.run_pass()
    engine.run_pass()
    await second.completion("new")
    assert second.tokens["new"] == [7, 8, 200, 207]


async def test_a_scheduler_has_all_ended_that_runs_under_a_key_and_hears_when_it_has(
    orphaned, scheduler, a_gateway
):
    correction = sched.Correction(request_id="new", attempt=0, key_hash=KEY, dispatch_seq=7)
    scheduler.send(correction=correction)
    ended = await key_ended(scheduler)
    assert ended.request_id == "old"
    assert orphaned.engine.aborted == ["old#0"]
    gateway = await a_gateway(orphaned, "g3")
    await gateway.submit("late", epoch=1, dispatch_seq=7, **KEYED)
    assert (await gateway.completion("late")).reason == pb.COMPLETION_REASON_REFUSED
    await gateway.submit("new", epoch=1, dispatch_seq=8, **KEYED)
    await until(lambda: list(orphaned.engine.running) == ["new#0"])


async def test_a_scheduler_that_asks_for_nothing_that_is_here_is_answered_at_once(orphaned, scheduler):
    scheduler.send(correction=sched.Correction(request_id="x", key_hash=b"another key"))
    report = await scheduler.report("keyed_ends")
    assert report.keyed_ends.requests[0].key_hash == b"another key"
    assert orphaned.engine.aborted == []


async def test_a_newer_attempt_survives_the_end_of_the_older(an_engine, a_worker, a_gateway, scheduler):
    """The correction for attempt 0 is slower than attempt 1."""
    engine = an_engine()
    worker = await a_worker(engine, scheduler_addresses=(scheduler.address,))
    gateway = await a_gateway(worker)
    await gateway.submit("old", attempt=1, max_tokens=3, **KEYED)
    await until(lambda: engine.running)
    await scheduler.until(lambda: scheduler.num_streams)
    scheduler.send(correction=sched.Correction(request_id="old", attempt=0, key_hash=KEY))
    await scheduler.report("keyed_ends")
    assert engine.aborted == []


async def test_of_two_attempts_under_a_key_only_the_newer_lives(orphaned, a_gateway):
    gateway = await a_gateway(orphaned, "g2")
    await gateway.submit("new", max_tokens=3, **KEYED)
    await until(lambda: orphaned.engine.aborted == ["old#0"])
    await until(lambda: list(orphaned.engine.running) == ["new#0"])


async def test_a_scheduler_that_comes_later_is_told_what_runs_under_which_key(
    orphaned, an_engine, a_worker, a_gateway, scheduler
):
    await scheduler.stop()
    port = int(scheduler.address.rpartition(":")[2])
    scheduler.reports.clear()
    await scheduler.start(port)
    hello = await scheduler.report("hello")
    (keyed,) = hello.hello.keyed_requests
    assert (keyed.key_hash, keyed.request_hash) == (KEY, KEYED["request_hash"])
    assert (keyed.request_id, keyed.attempt) == ("old", 0)


async def test_more_orphans_than_may_be_kept_end_at_once(an_engine, a_worker, a_gateway, scheduler):
    engine = an_engine()
    worker = await a_worker(engine, scheduler_addresses=(scheduler.address,), max_orphans=1)
    gateway = await a_gateway(worker)
    for name in ("r1", "r2"):
        await gateway.submit(name, max_tokens=50, key_hash=name.encode(), request_hash=b"x")
    await until(lambda: len(engine.running) == 2)
    await gateway.close()
    await until(lambda: engine.aborted)
    assert len(engine.running) == 1
    await scheduler.report("keyed_ends")


async def test_a_new_leader_is_told_what_runs_under_which_key(orphaned, scheduler):
    """A standby has heard the hello long before; what began since then it does not know."""
    await scheduler.until(lambda: scheduler.num_streams)
    scheduler.send(epoch=9, probe=sched.Probe())
    report = await scheduler.report("keyed_requests", len(scheduler.of("keyed_requests")))
    (keyed,) = report.keyed_requests.requests
    assert (keyed.key_hash, keyed.request_id) == (KEY, "old")
    assert report.epoch == 9
