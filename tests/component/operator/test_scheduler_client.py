"""The client of a scheduler's admin service, against a real gRPC server."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
import structlog

from doubles.certificates import new_authority, write_certificate
from hortator.operator.client import scheduler as module
from hortator.operator.client.scheduler import SchedulerAdmin
from hortator.operator.schedulers import SchedulerAt
from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.rpc.scheduling.v1 import scheduling_pb2_grpc as rpc
from hortator.runtime.grpc_server import GrpcServer
from hortator.runtime.identity import Identity
from hortator.runtime.transport import Transport, transport_of
from hortator.scheduler.service import CALLERS


class FakeAdmin(rpc.AdminServiceServicer):
    """A scheduler with one worker."""

    def __init__(self) -> None:
        self.epoch = 1
        """0: a standby."""
        self.in_flight = 3
        self.saturation: dict[str, float] = {}
        self.is_draining = False
        self.drains: list[tuple[str, float]] = []
        self.pause_s = 0.0
        self.num_snapshots = 0

    async def Snapshot(self, request, context):  # noqa: N802
        self.num_snapshots += 1
        await asyncio.sleep(self.pause_s)
        state = "draining" if self.is_draining else "ready"
        group = pb.GroupState(
            worker_id="prefill-0",
            boot_id="4-a1",
            phase=pb.PHASE_PREFILL,
            state=state,
            num_in_flight=self.in_flight,
        )
        group.ranks.extend([pb.RankSnapshot(dp_rank=rank) for rank in range(16)])
        snapshot = pb.Snapshot(epoch=self.epoch, groups=[group], saturation=self.saturation)
        return pb.SnapshotResponse(snapshot=snapshot)

    async def Drain(self, request, context):  # noqa: N802
        if not self.epoch:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "a standby")
        self.drains.append((request.worker_id, request.timeout_s))
        self.is_draining = True
        while self.in_flight:
            await asyncio.sleep(0.01)
        return pb.DrainResponse(drained=True, num_in_flight=0)


async def workers_of(admin, schedulers):
    view = await admin.view(schedulers)
    return None if view is None else view.workers


@pytest.fixture
def fake() -> FakeAdmin:
    return FakeAdmin()


@pytest.fixture
async def address(fake: FakeAdmin) -> AsyncIterator[SchedulerAt]:
    def register(server: grpc.aio.Server) -> None:
        rpc.add_AdminServiceServicer_to_server(fake, server)

    async with GrpcServer(register=register, service_names=()) as server:
        yield SchedulerAt(address=server.address)


@pytest.fixture
async def admin() -> AsyncIterator[SchedulerAdmin]:
    admin = SchedulerAdmin(call_timeout_s=0.5)
    yield admin
    await admin.close()


async def test_workers_are_told_with_epoch_and_load(admin: SchedulerAdmin, address: SchedulerAt) -> None:
    workers = await workers_of(admin, [address])
    assert workers is not None
    (worker,) = workers.values()
    assert (worker.worker_id, worker.epoch, worker.num_in_flight, worker.num_ranks) == ("prefill-0", 4, 3, 16)
    assert not worker.is_draining


async def test_what_is_asked_of_the_service_is_told_as_far_as_it_is_known(
    admin: SchedulerAdmin, address: SchedulerAt, fake: FakeAdmin
) -> None:
    view = await admin.view([address])
    assert view is not None
    assert (view.epoch, view.saturation, view.predicted_ttft_s) == (1, {}, None)
    fake.saturation = {"prefill": 0.75}
    view = await admin.view([address])
    assert view is not None
    assert view.saturation == {"prefill": 0.75}
    assert view.workers["prefill-0"].phase == "prefill"


async def test_a_drain_is_asked_for_once_and_seen_by_its_effect(
    admin: SchedulerAdmin, address: SchedulerAt, fake: FakeAdmin
) -> None:
    for _ in range(3):
        admin.start_drain(address, "prefill-0", timeout_s=30.0)
    async with asyncio.timeout(5):
        while not fake.drains:
            await asyncio.sleep(0.01)
    workers = await workers_of(admin, [address])
    assert workers is not None
    assert workers["prefill-0"].is_draining
    fake.in_flight = 0
    await asyncio.sleep(0.1)
    assert fake.drains == [("prefill-0", 30.0)]
    admin.start_drain(address, "prefill-0", timeout_s=30.0)  # the first is over: asking again is a new drain
    async with asyncio.timeout(5):
        while len(fake.drains) < 2:
            await asyncio.sleep(0.01)


async def test_of_several_schedulers_the_leader_is_believed_and_standbys_are_asked_again(
    admin: SchedulerAdmin, address: str, fake: FakeAdmin
) -> None:
    """A standby knows of no request: by its word every group could be deleted."""
    standby = FakeAdmin()
    standby.epoch = standby.in_flight = 0

    def register(server: grpc.aio.Server) -> None:
        rpc.add_AdminServiceServicer_to_server(standby, server)

    async with GrpcServer(register=register, service_names=()) as server:
        both = [SchedulerAt(address=server.address), address]
        for addresses in (both, both[::-1]):
            workers = await workers_of(admin, addresses)
            assert workers is not None
            assert workers["prefill-0"].num_in_flight == 3
        assert await workers_of(admin, [SchedulerAt(address=server.address)]) is None
        admin.start_drain(SchedulerAt(address=server.address), "prefill-0", timeout_s=30.0)
        await asyncio.sleep(0.1)
        fake.epoch, standby.epoch, standby.in_flight = 0, 2, 1
        workers = await workers_of(admin, both)
        assert workers is not None
        assert workers["prefill-0"].num_in_flight == 1


async def test_a_scheduler_that_is_not_there_is_no_error_and_is_left_alone(admin: SchedulerAdmin) -> None:
    assert await workers_of(admin, [SchedulerAt(address="127.0.0.1:1")]) is None
    began_at = time.monotonic()
    assert await workers_of(admin, [SchedulerAt(address="127.0.0.1:1")]) is None
    assert time.monotonic() - began_at < 0.1


async def test_a_scheduler_that_does_not_answer_costs_a_limited_time(
    admin: SchedulerAdmin, address: SchedulerAt, fake: FakeAdmin
) -> None:
    fake.pause_s = 30.0
    began_at = time.monotonic()
    assert await workers_of(admin, [address]) is None
    assert time.monotonic() - began_at < 2.0


async def test_a_scheduler_that_was_silent_is_asked_in_the_background_and_known_once_it_answers(
    admin: SchedulerAdmin, address: SchedulerAt, fake: FakeAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No look but the first waits for it, however often it is due to be asked again."""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    fake.pause_s = 30.0
    assert await workers_of(admin, [address]) is None
    for _ in range(20):
        began_at = time.monotonic()
        assert await workers_of(admin, [address]) is None
        assert time.monotonic() - began_at < 0.2
        await asyncio.sleep(0.01)
    assert fake.num_snapshots <= 2, "one question at a time"
    fake.pause_s = 0.0
    async with asyncio.timeout(5):
        while await workers_of(admin, [address]) is None:
            await asyncio.sleep(0.01)
    fake.in_flight = 1
    workers = await workers_of(admin, [address])
    assert workers is not None
    assert workers["prefill-0"].num_in_flight == 1, "from then on each look asks"


async def test_what_is_known_of_silent_schedulers_is_bounded(
    admin: SchedulerAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SILENT", 3)
    for port in range(2, 8):
        assert await workers_of(admin, [SchedulerAt(address=f"127.0.0.1:{port}")]) is None
    assert list(admin._silent) == [SchedulerAt(address=f"127.0.0.1:{port}") for port in (5, 6, 7)]


async def test_channels_are_bounded(admin: SchedulerAdmin, address: SchedulerAt) -> None:
    for port in range(2, module.MAX_CHANNELS + 10):
        admin.start_drain(SchedulerAt(address=f"127.0.0.1:{port}"), "w", timeout_s=0.01)
    await asyncio.sleep(0.2)
    assert await workers_of(admin, [address]) is not None
    assert len(admin._channels) <= module.MAX_CHANNELS


@pytest.fixture
def secured(tmp_path: Path, fake: FakeAdmin) -> tuple[GrpcServer, Transport]:
    """A scheduler of `ns/svc` that wants certificates, and an operator of another namespace that has one."""
    authority = new_authority()
    scheduler = transport_of(write_certificate(tmp_path / "scheduler", "scheduler", authority=authority))
    operator = write_certificate(tmp_path / "operator", "operator", service="hortator", authority=authority)
    server = GrpcServer(
        register=lambda server: rpc.add_AdminServiceServicer_to_server(fake, server),
        service_names=(),
        credentials=scheduler.server_credentials(),
        interceptors=scheduler.interceptors(CALLERS),
    )
    return server, transport_of(operator)


async def test_a_scheduler_that_wants_certificates_is_asked_with_ours(
    secured: tuple[GrpcServer, Transport],
) -> None:
    server, transport = secured
    async with server:
        scheduler = SchedulerAt(
            address=server.address, identity=Identity(namespace="ns", service="svc", component="scheduler")
        )
        admin = SchedulerAdmin(transport=transport)
        workers = await workers_of(admin, [scheduler])
        await admin.close()
        assert workers is not None
        assert list(workers) == ["prefill-0"]
        bare = SchedulerAdmin()
        with structlog.testing.capture_logs() as logs:
            assert await workers_of(bare, [scheduler]) is None
        await bare.close()
        assert [log["event"] for log in logs if log["log_level"] == "warning"] == [
            "a scheduler wants a certificate, and the operator has none"
        ]
