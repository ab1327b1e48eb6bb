"""Client of a service's schedulers: what is in flight on each worker, and taking a worker out of service.

A scheduler that is not there yet, or not any more, is no error: nothing is known then. One that does not
answer makes a single look at its service wait: from then on it is asked in the background, now and then, and
nothing is known of it until it has answered.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import structlog

from hortator.operator.observed import SchedulerView, WorkerLoad
from hortator.operator.schedulers import SchedulerAt
from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.rpc.scheduling.v1 import scheduling_pb2_grpc as rpc
from hortator.runtime.identity import Identity
from hortator.runtime.transport import Plaintext, Transport

CALL_TIMEOUT_S = 2.0
RETRY_S = 5.0
MAX_CHANNELS = 64
MAX_SILENT = 1024
DRAINING = "draining"
MAX_SATURATION = 1e6
"""Whoever says more says the same: far too much is asked."""
_PHASES = {number: name.removeprefix("PHASE_").lower() for name, number in pb.Phase.items()}

_NOT_HERE = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION})
"""A worker that left has nothing in flight; a standby leaves it to the leader."""


class SchedulerAdmin:
    """AdminService of many schedulers. Close it."""

    def __init__(
        self,
        *,
        call_timeout_s: float = CALL_TIMEOUT_S,
        transport: Transport | None = None,
        transport_to: Callable[[Identity], Transport | None] = lambda _: None,
    ) -> None:
        """Must be called in a running loop.

        `transport_to` says how to talk to the schedulers of one service; `transport` is for those of which it
        says nothing.
        """
        self._transport = transport or Plaintext()
        self._transport_to = transport_to
        self._call_timeout_s = call_timeout_s
        self._channels: OrderedDict[tuple[SchedulerAt, Transport, int], grpc.aio.Channel] = OrderedDict()
        """By scheduler, our certificate and its generation."""
        self._silent: OrderedDict[SchedulerAt, float] = OrderedDict()
        """Who did not answer, and when to ask again."""
        self._retries: dict[SchedulerAt, asyncio.Task[SchedulerView | None]] = {}
        self._drains: dict[tuple[SchedulerAt, str], asyncio.Task[None]] = {}
        self._log = structlog.get_logger("hortator.operator.client.scheduler")

    async def view(self, schedulers: Sequence[SchedulerAt]) -> SchedulerView | None:
        """What the leader sees; None: no leader answers in time."""
        answers = await asyncio.gather(*map(self._view, schedulers))
        leading = [view for view in answers if view is not None and view.epoch]  # 0: a standby
        return max(leading, key=lambda view: view.epoch, default=None)

    async def _view(self, scheduler: SchedulerAt) -> SchedulerView | None:
        retry_at = self._silent.get(scheduler)
        if retry_at is None:
            return await self._ask(scheduler)
        loop = asyncio.get_running_loop()
        if retry_at <= loop.time() and scheduler not in self._retries:
            task = loop.create_task(self._ask(scheduler))
            self._retries[scheduler] = task
            task.add_done_callback(lambda _: self._retries.pop(scheduler, None))
        return None

    def start_drain(self, scheduler: SchedulerAt, worker_id: str, *, timeout_s: float) -> None:
        """Ask the scheduler to place nothing more on a worker; whether it has, `view` tells.

        The call lasts as long as the drain, so it goes on in the background; asking twice is one drain.
        """
        key = (scheduler, worker_id)
        if key not in self._drains:
            task = asyncio.get_running_loop().create_task(self._drain(scheduler, worker_id, timeout_s))
            self._drains[key] = task
            task.add_done_callback(lambda _: self._drains.pop(key, None))

    async def close(self) -> None:
        """Close all channels; drains that have begun go on at the schedulers."""
        tasks: list[asyncio.Task[Any]] = [*self._drains.values(), *self._retries.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    async def _ask(self, scheduler: SchedulerAt) -> SchedulerView | None:
        try:
            response = await rpc.AdminServiceStub(await self._channel(scheduler)).Snapshot(
                pb.SnapshotRequest(), timeout=self._call_timeout_s
            )
        except grpc.aio.AioRpcError as error:
            self._leave_alone(scheduler, error)
            return None
        self._silent.pop(scheduler, None)
        snapshot = response.snapshot
        workers = {
            group.worker_id: WorkerLoad(
                worker_id=group.worker_id,
                phase=_PHASES.get(group.phase, ""),
                boot_id=group.boot_id,
                state=group.state,
                num_in_flight=group.num_in_flight,
                num_ranks=len(group.ranks),
                is_draining=group.state == DRAINING,
            )
            for group in snapshot.groups
        }
        return SchedulerView(
            epoch=snapshot.epoch,
            workers=workers,
            saturation={
                phase: min(value, MAX_SATURATION)
                for phase, value in snapshot.saturation.items()
                if value >= 0.0  # not NaN
            },
            predicted_ttft_s=snapshot.predicted_ttft_s if snapshot.predicted_ttft_s > 0.0 else None,
        )

    async def _drain(self, scheduler: SchedulerAt, worker_id: str, timeout_s: float) -> None:
        try:
            stub = rpc.AdminServiceStub(await self._channel(scheduler))
            request = pb.DrainRequest(worker_id=worker_id, timeout_s=timeout_s)
            await stub.Drain(request, timeout=timeout_s + self._call_timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _NOT_HERE:
                self._leave_alone(scheduler, error)

    async def _channel(self, scheduler: SchedulerAt) -> grpc.aio.Channel:
        transport = self._transport
        if scheduler.identity is not None:
            transport = self._transport_to(scheduler.identity) or transport
        key = (scheduler, transport, transport.generation)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = self._open(scheduler, transport)
            if len(self._channels) > MAX_CHANNELS:
                _, oldest = self._channels.popitem(last=False)
                await oldest.close()
        self._channels.move_to_end(key)
        return channel

    def _open(self, scheduler: SchedulerAt, transport: Transport) -> grpc.aio.Channel:
        if scheduler.identity is None:
            return Plaintext().open_channel(scheduler.address, "scheduler")
        if transport.identity is None:
            self._log.warning(
                "a scheduler wants a certificate, and the operator has none",
                scheduler=str(scheduler.identity),
                remedy="HORTATOR_OPERATOR_TLS__CERT_FILE (docs/how-to/secure.md)",
            )
        return transport.open_channel(scheduler.address, scheduler.identity)

    def _leave_alone(self, scheduler: SchedulerAt, error: grpc.aio.AioRpcError) -> None:
        self._silent[scheduler] = asyncio.get_running_loop().time() + RETRY_S
        self._silent.move_to_end(scheduler)
        if len(self._silent) > MAX_SILENT:
            self._silent.popitem(last=False)
        self._log.debug("no answer from a scheduler", scheduler=scheduler.address, error=error.code().name)
