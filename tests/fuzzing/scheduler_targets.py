"""The scheduler: what gateways and workers say on their streams.

Each input is a row of messages on the streams of a gateway and a worker that have said hello to a scheduler with
one more worker and one request. Afterwards the core keeps its promises, and everything that there is to say can
be said.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from fuzzing.frames import framed, frames, parsed
from fuzzing.protos import around, wire
from fuzzing.target import Target
from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.scheduler import codec
from hortator.scheduler.core.events import KeyedRequestsListed, RankStateReported, TimerFired
from hortator.scheduler.core.leadership import Leadership, LeadershipSettings
from hortator.scheduler.core.machine import SchedulerMachine
from hortator.scheduler.core.model import SchedulerSettings
from hortator.scheduler.core.policies.registry import POLICY_NAMES
from hortator.scheduler.driver import Driver
from hortator.scheduler.errors import InvalidMessageError, OutboxClosedError
from hortator.scheduler.metrics import SchedulerMetrics
from hortator.scheduler.service import AdminService, SchedulingService
from hortator.scheduler.shell import Shell

EPOCH = 5


class World:
    """A scheduler that leads, with worker w1 idle, worker w0 and gateway gw connected, and r1 announced."""

    def __init__(self) -> None:
        self.machine = SchedulerMachine(SchedulerSettings(), epoch=EPOCH)
        self.registry = CollectorRegistry()
        metrics = SchedulerMetrics(self.registry, policy="staggered")
        self.shell = Shell(
            Driver(_Loud(self.machine), metrics=metrics, policy="staggered"),
            leadership=Leadership(LeadershipSettings(), tag=1, epoch=EPOCH),
            metrics=metrics,
        )
        self.service = SchedulingService(self.shell, heartbeat_interval_s=0.5)
        self.admin = AdminService(self.shell, policy_names=POLICY_NAMES)
        self.gateway = self.shell.gateways.connect("gw")
        self.other = self.shell.workers.connect(codec.decode_hello(_hello("w1")).group, sequence=1)
        self.worker = self.shell.workers.connect(codec.decode_hello(_hello("w0")).group, sequence=1)
        self._sequence = 1
        announcement = pb.Announcement(request_id="r1", num_prompt_tokens=100, max_output_tokens=10)
        self.gateway_says(pb.PlaceRequest(events=[pb.GatewayEvent(announcement=announcement)]))

    def gateway_says(self, message: pb.PlaceRequest) -> None:
        self.service._take_gateway_events(self.gateway, message.events)

    def worker_says(self, message: pb.ReportRequest) -> None:
        self._sequence += 1
        if message.worker_id in {"", "w0"}:  # most messages are let through the first door
            message.worker_id, message.boot_id, message.sequence = "w0", "b1", self._sequence
        self.service._take_report(self.worker, message)

    async def check(self) -> None:
        await self._check()
        self.shell._now += 1000.0  # whatever waits for a time has waited for long enough
        self.shell._look()
        self.shell.handle(TimerFired())
        await self._check()

    async def _check(self) -> None:
        self.machine.check_invariants()
        self.shell._refresh()
        generate_latest(self.registry)
        self.admin._snapshot(100).SerializeToString()
        for worker in (self.worker, self.other):
            for item in await _taken(worker.outbox):
                codec.encode_report_response(self.shell.epoch, item).SerializeToString()
        items = await _taken(self.gateway.outbox)
        codec.encode_place_response(self.shell.epoch, items).SerializeToString()


async def _taken(outbox):
    try:
        return await outbox.take() if len(outbox) else []
    except OutboxClosedError:
        return []


class _Loud:
    """The driver logs what the core raises and goes on; here it is a bug."""

    def __init__(self, machine: SchedulerMachine) -> None:
        self._machine = machine
        self.errors: list[Exception] = []

    def __getattr__(self, name: str):
        return getattr(self._machine, name)

    def handle(self, event, now):
        try:
            return self._machine.handle(event, now)
        except Exception as error:
            raise CoreFailedError(f"{event!r}") from error


class CoreFailedError(BaseException):
    """Past the `except Exception` of the driver."""


def _hello(worker_id: str) -> pb.ReportRequest:
    zeros = [0, 0]
    return pb.ReportRequest(
        worker_id=worker_id,
        boot_id="b1",
        sequence=1,
        hello=pb.WorkerHello(
            address="127.0.0.1:1",
            phase=pb.PHASE_AGGREGATED,
            dp_size=2,
            chunk_budget_tokens=1000,
            chunked_prefill=True,
            max_batch_size=64,
            kv_blocks_total=1000,
            tokens_per_block=64,
            rank_states=pb.RankStates(prefill_load_tokens=zeros, batch_size=zeros, kv_blocks_used=zeros),
        ),
    )


def _announcement(request_id: str) -> pb.GatewayEvent:
    return pb.GatewayEvent(
        announcement=pb.Announcement(
            request_id=request_id,
            num_prompt_tokens=100,
            max_output_tokens=10,
            block_hashes=[1],
            tenant="k",
            key_hash=b"k",
            request_hash=b"k",
        )
    )


_PLACE = (
    pb.PlaceRequest(events=[_announcement("r0"), _announcement("r2")]),
    pb.PlaceRequest(events=[pb.GatewayEvent(cancellation=pb.Cancellation(request_id="r1"))]),
    pb.PlaceRequest(
        events=[
            pb.GatewayEvent(prefill_finished=pb.PrefillFinished(request_id="r1", num_prompt_tokens=100)),
            pb.GatewayEvent(first_token=pb.FirstToken(request_id="r1", ttft_s=0.1)),
            pb.GatewayEvent(request_finished=pb.RequestFinished(request_id="r1", num_output_tokens=3)),
        ]
    ),
    pb.PlaceRequest(
        events=[pb.GatewayEvent(placement_refused=pb.PlacementRefused(request_id="r1", worker_id="w1"))]
    ),
)
_STATES = pb.RankStates(
    prefill_load_tokens=[0, 5],
    batch_size=[0, 1],
    kv_blocks_used=[0, 2],
    num_waiting=[0, 1],
    blocks_changed=[pb.BlocksChanged(dp_rank=1, stored=[1, 2], removed=[3])],
)
_REPORTS = tuple(
    pb.ReportRequest(worker_id="w0", epoch=EPOCH, included_dispatch_seq=1, **event)
    for event in (
        {
            "forward_pass_started": pb.ForwardPassStarted(
                forward_pass_id=1, predicted_s=0.1, rank_states=_STATES
            )
        },
        {
            "forward_pass_ended": pb.ForwardPassEnded(
                forward_pass_id=1,
                duration_s=0.1,
                rank_states=_STATES,
                pass_prefill_tokens=[1, 1],
                pass_decode_tokens=[1, 1],
            )
        },
        {"rank_states": _STATES},
        {"batch_split": pb.BatchSplit(batch_id="5-1", request_ids=["r1"])},
        {"leader_seen": pb.LeaderSeen(epoch=EPOCH, is_there=True)},
        {"keyed_requests": pb.KeyedRequests(requests=[pb.KeyedRequest(key_hash=b"k", request_id="r0")])},
    )
)

_runner = asyncio.Runner()


def _in_a_world(say: Callable[[World], None]) -> None:
    async def live() -> None:
        world = World()
        try:
            say(world)
            await world.check()
        finally:
            world.shell.close()

    _runner.run(live())


def gateway_stream(data: bytes) -> None:
    messages = [message for frame in frames(data) if (message := parsed(pb.PlaceRequest, frame)) is not None]

    def say(world: World) -> None:
        for message in messages:
            world.gateway_says(message)

    _in_a_world(say)


def worker_stream(data: bytes) -> None:
    messages = [message for frame in frames(data) if (message := parsed(pb.ReportRequest, frame)) is not None]

    def say(world: World) -> None:
        for message in messages:
            world.worker_says(message)

    _in_a_world(say)


def hellos(data: bytes) -> None:
    """The first message of either stream."""
    place, report = parsed(pb.PlaceRequest, data), parsed(pb.ReportRequest, data)

    def say(world: World) -> None:
        if place is not None:
            with contextlib.suppress(InvalidMessageError):
                world.shell.gateways.connect(codec.decode_gateway_id(place))
        if report is not None:
            try:
                hello = codec.decode_hello(report)
            except InvalidMessageError:
                return
            world.worker = world.shell.workers.connect(hello.group, sequence=report.sequence)
            group_id = hello.group.group_id
            world.shell.handle(KeyedRequestsListed(group_id=group_id, requests=hello.keyed_requests))
            if hello.loads is not None:
                world.shell.handle(
                    RankStateReported(group_id=group_id, included_dispatch_seq=0, loads=hello.loads)
                )

    _in_a_world(say)


TARGETS = (
    Target(
        "scheduler-gateway-stream",
        gateway_stream,
        st.lists(around(*_PLACE) | wire(pb.PlaceRequest), min_size=1, max_size=4).map(framed),
        cases=(framed([message.SerializeToString() for message in _PLACE]),),
    ),
    Target(
        "scheduler-worker-stream",
        worker_stream,
        st.lists(around(*_REPORTS) | wire(pb.ReportRequest, worker_id="w0"), min_size=1, max_size=4).map(
            framed
        ),
        cases=(framed([message.SerializeToString() for message in _REPORTS]),),
    ),
    Target(
        "scheduler-hello",
        hellos,
        st.one_of(around(_hello("w2"), _hello("w0")), wire(pb.ReportRequest), wire(pb.PlaceRequest)),
        cases=(_hello("w2").SerializeToString(),),
    ),
)
