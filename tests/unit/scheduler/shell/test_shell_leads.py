"""What a shell does when its scheduler takes, loses or resigns the lead. No test here waits in real time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from hortator.runtime.metrics import new_registry
from hortator.scheduler.core.events import RankStateReported, RequestArrived, WorkerDraining
from hortator.scheduler.core.leadership import Leadership, LeadershipSettings
from hortator.scheduler.core.machine import SchedulerMachine
from hortator.scheduler.core.model import GroupSpec, Phase, RankLoads, SchedulerSettings
from hortator.scheduler.driver import Driver
from hortator.scheduler.errors import NotLeaderError
from hortator.scheduler.metrics import SchedulerMetrics
from hortator.scheduler.registry import FleetView, Heartbeat, PlacementNotice, Resignation, Welcome
from hortator.scheduler.shell import Shell

pytestmark = pytest.mark.looptime

WORKER = GroupSpec(
    group_id="w",
    boot_id="b",
    phase=Phase.AGGREGATED,
    address="127.0.0.1:1",
    dp_size=1,
    chunk_budget_tokens=100,
    max_batch_size=4,
    kv_blocks_total=100,
    tokens_per_block=64,
)
IDLE = RankLoads(prefill_load_tokens=(0,), batch_size=(0,), kv_blocks_used=(0,))


class Bench:
    """A shell around the true core, one worker and one gateway."""

    def __init__(self, *, epoch: int) -> None:
        self.metrics = SchedulerMetrics(new_registry(with_process=False), policy="immediate-round-robin")
        settings = SchedulerSettings(policy="immediate-round-robin")
        self.shell = Shell(
            Driver(SchedulerMachine(settings, epoch=epoch), metrics=self.metrics, policy=settings.policy),
            leadership=Leadership(LeadershipSettings(), tag=0, epoch=epoch),
            metrics=self.metrics,
        )
        self.worker = self.shell.workers.connect(WORKER, sequence=1)
        self.gateway = self.shell.gateways.connect("gw")

    def see(self, *, epoch: int, is_there: bool) -> None:
        for witness in ("worker w", "gateway gw"):
            self.shell.saw_leader(witness, epoch=epoch, is_there=is_there)

    def report(self) -> None:
        self.shell.handle(RankStateReported(group_id="w", included_dispatch_seq=0, loads=IDLE))

    def arrive(self, request_id: str) -> None:
        event = RequestArrived(
            request_id=request_id, gateway_id="gw", attempt=0, num_prompt_tokens=10, max_output_tokens=1
        )
        self.shell.handle(event)

    async def told(self) -> list[object]:
        """What the gateway is told next."""
        async with asyncio.timeout(1.0):
            return list(await self.gateway.outbox.take())


async def test_a_standby_leads_when_its_witnesses_have_no_leader_and_says_so():
    bench = Bench(epoch=0)
    bench.shell.start()
    bench.see(epoch=5, is_there=True)
    await asyncio.sleep(10.0)
    assert not bench.shell.is_leader
    bench.see(epoch=5, is_there=False)
    await asyncio.sleep(0.2)
    assert bench.shell.is_leader
    assert bench.shell.epoch > 5
    assert await bench.told() == [Heartbeat()]
    bench.report()
    bench.arrive("r")
    (notice,) = await bench.told()
    assert isinstance(notice, PlacementNotice)
    assert notice.batch.batch_id.startswith(f"{bench.shell.epoch}-")
    bench.shell.close()


async def test_a_leader_keeps_saying_that_it_is_there():
    bench = Bench(epoch=5)
    bench.shell.start()
    heard = 0
    end_at = asyncio.get_running_loop().time() + 5.0
    while asyncio.get_running_loop().time() < end_at:
        heard += sum(isinstance(item, Heartbeat) for item in await bench.told())
    assert heard >= 10
    bench.shell.close()


async def test_a_gateway_hears_a_leader_three_times_as_often_as_a_worker_does():
    bench = Bench(epoch=5)
    bench.shell.start()
    await asyncio.sleep(9.9)
    gateway, worker = await bench.told(), await bench.worker.outbox.take()
    assert sum(isinstance(item, Heartbeat) for item in gateway) == 60
    assert sum(isinstance(item, Heartbeat) for item in worker) == 20
    bench.shell.close()


async def test_a_leader_tells_gateways_again_and_again_what_they_need_without_it():
    bench = Bench(epoch=5)
    bench.report()
    bench.shell.start()
    await asyncio.sleep(2.5)
    views = [item for item in await bench.told() if isinstance(item, FleetView)]
    assert len(views) == 3
    (group,) = views[-1].groups
    assert (group.spec, group.loads) == (WORKER, IDLE)
    assert views[-1].num_gateways == 1
    assert views[-1].heartbeat_s == pytest.approx(0.5 / 3)
    bench.shell.close()


async def test_a_worker_that_is_lost_or_drains_is_not_told_of_any_more():
    bench = Bench(epoch=5)
    bench.report()
    other = replace(WORKER, group_id="v")
    bench.shell.workers.connect(other, sequence=1)
    bench.shell.handle(RankStateReported(group_id="v", included_dispatch_seq=0, loads=IDLE))
    bench.shell.start()
    await bench.told()
    bench.shell.handle(WorkerDraining(group_id="v"))
    await asyncio.sleep(0.1)
    (view,) = [item for item in await bench.told() if isinstance(item, FleetView)]
    assert [group.spec.group_id for group in view.groups] == ["w"]
    bench.shell.close()


async def test_who_knows_of_no_worker_tells_of_none():
    """A leader that is new: what the last one told is better than nothing."""
    bench = Bench(epoch=5)
    bench.shell.start()
    bench.shell.tell_fleet()
    await asyncio.sleep(2.5)
    assert not [item for item in await bench.told() if isinstance(item, FleetView)]
    bench.shell.close()


async def test_a_standby_tells_of_nobody():
    bench = Bench(epoch=0)
    bench.report()
    bench.shell.start()
    bench.shell.tell_fleet()
    await asyncio.sleep(2.5)
    assert len(bench.gateway.outbox) == 0
    bench.shell.close()


async def test_one_that_lost_the_lead_says_nothing_more_of_what_it_had_decided():
    """Nor does it say so later, in an epoch of which it is not true."""
    bench = Bench(epoch=5)
    bench.report()
    bench.worker.outbox.put(Welcome(0.5))
    bench.arrive("unsaid")
    bench.see(epoch=9, is_there=True)
    assert not bench.shell.is_leader
    assert bench.shell.snapshot().num_in_flight == 0
    assert len(bench.gateway.outbox) == 0
    assert list(await bench.worker.outbox.take()) == [Welcome(0.5)]
    again = bench.shell.gateways.connect("gw")
    assert len(again.outbox) == 0
    with pytest.raises(NotLeaderError):
        await bench.shell.drain_worker("w", timeout_s=1.0)
    bench.shell.close()


async def test_one_that_resigns_says_so_and_waits_for_the_next():
    bench = Bench(epoch=5)
    bench.see(epoch=5, is_there=True)
    handing_over = asyncio.ensure_future(bench.shell.hand_over(timeout_s=3.0))
    assert await bench.told() == [Resignation(5)]
    bench.see(epoch=5, is_there=False)
    await asyncio.sleep(1.0)
    assert not bench.shell.is_leader
    assert not handing_over.done()
    bench.see(epoch=6, is_there=True)
    assert await handing_over
    bench.shell.close()


async def test_one_that_nobody_follows_stops_in_time():
    bench = Bench(epoch=5)
    bench.see(epoch=5, is_there=True)
    assert not await bench.shell.hand_over(timeout_s=3.0)
    bench.shell.close()
