"""A worker with two schedulers, of which one leads."""

from __future__ import annotations

import asyncio

import pytest

from hortator.rpc.scheduling.v1 import scheduling_pb2 as sched


@pytest.fixture
async def standby(scheduler):
    fake = type(scheduler)()
    fake.epoch = 0
    await fake.start()
    yield fake
    await fake.stop()


def seen_by(scheduler):
    return [(one.leader_seen.epoch, one.leader_seen.is_there) for one in scheduler.of("leader_seen")]


async def test_every_scheduler_hears_who_leads_and_a_new_leader_gets_the_loads_at_once(
    an_engine, a_worker, scheduler, standby
):
    await a_worker(an_engine(), scheduler_addresses=(scheduler.address, standby.address))
    await standby.until(lambda: seen_by(standby)[-1:] == [(1, True)])
    scheduler.send(resigned=sched.Resigned())
    await standby.until(lambda: seen_by(standby)[-1] == (1, False))
    num_states = len(standby.of("rank_states"))
    standby.epoch = 2
    standby.send(epoch=2)
    await standby.until(lambda: seen_by(standby)[-1] == (2, True))
    await standby.until(lambda: len(standby.of("rank_states")) > num_states)
    assert standby.of("rank_states")[-1].epoch == 2
    await scheduler.until(lambda: seen_by(scheduler)[-1] == (2, True))


async def test_a_former_leader_ends_nothing_and_drains_nothing(
    an_engine, a_worker, a_gateway, scheduler, standby
):
    """What it thinks of a request may be about one that the present leader has placed."""
    engine = an_engine()
    worker = await a_worker(engine, scheduler_addresses=(scheduler.address, standby.address))
    gateway = await a_gateway(worker)
    await standby.until(lambda: seen_by(standby)[-1:] == [(1, True)])
    standby.epoch = 2
    standby.send(epoch=2)
    await standby.until(lambda: seen_by(standby)[-1] == (2, True))
    await gateway.submit("r1", max_tokens=100)
    async with asyncio.timeout(5):
        while not engine.running:
            await asyncio.sleep(0.01)
    num_states = len(scheduler.of("rank_states"))
    scheduler.send(correction=sched.Correction(request_id="r1"))
    scheduler.send(drain=sched.DrainWorker())
    scheduler.send(probe=sched.Probe())
    await scheduler.until(lambda: len(scheduler.of("rank_states")) > num_states)  # all three have been read
    assert worker.host.num_live == 1
    assert not worker.host.is_draining
    standby.send(epoch=2, drain=sched.DrainWorker())
    async with asyncio.timeout(5):
        while not worker.host.is_draining:
            await asyncio.sleep(0.01)
    worker.host.abort_all()


async def test_a_silent_leader_is_missed(an_engine, a_worker, scheduler, standby):
    """As one that is stopped: its stream stays open."""
    addresses = (scheduler.address, standby.address)
    await a_worker(an_engine(), scheduler_addresses=addresses, leader_timeout_s=0.2)
    await standby.until(lambda: (1, True) in seen_by(standby))
    await standby.until(lambda: (1, False) in seen_by(standby))  # the fake speaks every 0.5 s
    assert scheduler.num_streams == 1


async def test_what_a_gateway_places_by_itself_runs_until_a_newer_leader_speaks(
    an_engine, a_worker, a_gateway, scheduler, standby
):
    engine = an_engine()
    worker = await a_worker(engine, scheduler_addresses=(scheduler.address, standby.address))
    gateway = await a_gateway(worker)
    await standby.until(lambda: seen_by(standby)[-1:] == [(1, True)])
    await scheduler.stop()
    await standby.until(lambda: seen_by(standby)[-1] == (1, False))
    num_states = len(standby.of("rank_states"))
    await gateway.submit("r1", max_tokens=150, epoch=1, degraded=True)
    async with asyncio.timeout(5):
        while not engine.running:
            await asyncio.sleep(0.01)
    standby.epoch = 2
    standby.send(epoch=2)
    await standby.until(lambda: seen_by(standby)[-1] == (2, True))
    await standby.until(lambda: len(standby.of("rank_states")) > num_states)
    assert sum(standby.of("rank_states")[-1].rank_states.batch_size) == 1, (
        "the new leader knows the load of it"
    )
    await gateway.submit("r2", max_tokens=1, epoch=1, degraded=True)
    completion = await gateway.completion("r2")
    assert completion.message == "placed in epoch 1, this worker is in epoch 2"
    await gateway.submit("r3", max_tokens=1, epoch=2, degraded=True)
    async with asyncio.timeout(5):
        while len(engine.running) < 2:
            await asyncio.sleep(0.01)
    assert set(engine.running) == {"r1#0", "r3#0"}, "what ran before goes on"
    worker.host.abort_all()
