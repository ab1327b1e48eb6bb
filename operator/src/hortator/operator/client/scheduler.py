"""Client of a service's schedulers: what is in flight on each worker, and taking a worker out of service.

A scheduler that is not there yet, or not any more, is no error: nothing is known then. One that does not
answer makes a single look at its service wait: from then on it is asked in the background, now and then, and
nothing is known of it until it has answered.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import structlog

from hortator.operator.observed import WorkerLoad
from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.rpc.scheduling.v1 import scheduling_pb2_grpc as rpc
from hortator.runtime.grpc_server import open_channel

CALL_TIMEOUT_S = 2.0
RETRY_S = 5.0
MAX_CHANNELS = 64
MAX_SILENT = 1024
DRAINING = "draining"


_NOT_HERE = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION})
"""A worker that left has nothing in flight; a standby leaves it to the leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What one scheduler says."""

    epoch: int
    """0: a standby, which knows of no request."""
    workers: dict[str, WorkerLoad]


class SchedulerAdmin:
    """AdminService of many schedulers, by address (`host:port`). Close it."""

    def __init__(self, *, call_timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Must be called in a running loop."""
        self._call_timeout_s = call_timeout_s
        self._channels: OrderedDict[str, grpc.aio.Channel] = OrderedDict()
        self._silent: OrderedDict[str, float] = OrderedDict()
        """Addresses that did not answer, and when to ask them again."""
        self._retries: dict[str, asyncio.Task[_View | None]] = {}
        self._drains: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._log = structlog.get_logger("hortator.operator.client.scheduler")

    async def workers(self, addresses: Sequence[str]) -> dict[str, WorkerLoad] | None:
        """All workers by their ids, as the leader sees them; None: no leader answers in time."""
        answers = await asyncio.gather(*map(self._view, addresses))
        leading = [view for view in answers if view is not None and view.epoch]
        newest = max(leading, key=lambda view: view.epoch, default=None)
        return None if newest is None else newest.workers

    async def _view(self, address: str) -> _View | None:
        retry_at = self._silent.get(address)
        if retry_at is None:
            return await self._ask(address)
        loop = asyncio.get_running_loop()
        if retry_at <= loop.time() and address not in self._retries:
            task = loop.create_task(self._ask(address))
            self._retries[address] = task
            task.add_done_callback(lambda _: self._retries.pop(address, None))
        return None

    def start_drain(self, address: str, worker_id: str, *, timeout_s: float) -> None:
        """Ask the scheduler to place nothing more on a worker; whether it has, `workers` tells.

        The call lasts as long as the drain, so it goes on in the background; asking twice is one drain.
        """
        key = (address, worker_id)
        if key not in self._drains:
            task = asyncio.get_running_loop().create_task(self._drain(address, worker_id, timeout_s))
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

    async def _ask(self, address: str) -> _View | None:
        try:
            response = await rpc.AdminServiceStub(await self._channel(address)).Snapshot(
                pb.SnapshotRequest(), timeout=self._call_timeout_s
            )
        except grpc.aio.AioRpcError as error:
            self._leave_alone(address, error)
            return None
        self._silent.pop(address, None)
        snapshot = response.snapshot
        workers = {
            group.worker_id: WorkerLoad(
                worker_id=group.worker_id,
                boot_id=group.boot_id,
                state=group.state,
                num_in_flight=group.num_in_flight,
                num_ranks=len(group.ranks),
                is_draining=group.state == DRAINING,
            )
            for group in snapshot.groups
        }
        return _View(epoch=snapshot.epoch, workers=workers)

    async def _drain(self, address: str, worker_id: str, timeout_s: float) -> None:
        try:
            stub = rpc.AdminServiceStub(await self._channel(address))
            request = pb.DrainRequest(worker_id=worker_id, timeout_s=timeout_s)
            await stub.Drain(request, timeout=timeout_s + self._call_timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _NOT_HERE:
                self._leave_alone(address, error)

    async def _channel(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = open_channel(address)
            if len(self._channels) > MAX_CHANNELS:
                _, oldest = self._channels.popitem(last=False)
                await oldest.close()
        self._channels.move_to_end(address)
        return channel

    def _leave_alone(self, address: str, error: grpc.aio.AioRpcError) -> None:
        self._silent[address] = asyncio.get_running_loop().time() + RETRY_S
        self._silent.move_to_end(address)
        if len(self._silent) > MAX_SILENT:
            self._silent.popitem(last=False)
        self._log.debug("no answer from a scheduler", address=address, error=error.code().name)
