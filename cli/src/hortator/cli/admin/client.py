"""Client of the scheduler's AdminService. Wire types stay in this module.

Every call raises `CommandError`: one line naming the address and what is wrong, with exit code 2 for a wrong
argument and 3 when nothing answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from hortator.cli.admin.snapshot import GroupSnapshot, PhaseName, PlacementSnapshot, RankSnapshot, Snapshot
from hortator.cli.errors import EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_USAGE, CommandError
from hortator.client.access import ANYBODY, Access, AccessError
from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.rpc.scheduling.v1 import scheduling_pb2_grpc as rpc

CALL_TIMEOUT_S = 10.0
_PHASES: dict[int, PhaseName] = {
    pb.PHASE_PREFILL: "prefill",
    pb.PHASE_DECODE: "decode",
    pb.PHASE_AGGREGATED: "aggregated",
}
_EXIT_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: EXIT_USAGE,
    grpc.StatusCode.NOT_FOUND: EXIT_USAGE,
    grpc.StatusCode.PERMISSION_DENIED: EXIT_USAGE,
    grpc.StatusCode.UNAVAILABLE: EXIT_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: EXIT_UNAVAILABLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """How a drain ended."""

    is_drained: bool
    num_in_flight: int


class AdminClient:
    """One channel to one scheduler; an async context manager."""

    def __init__(self, address: str, *, access: Access = ANYBODY) -> None:
        """Nothing is connected yet. Raises CommandError when a file of `access` cannot be used."""
        self._address = address
        try:
            self._channel = access.open_channel(address, "scheduler")
        except AccessError as error:
            raise CommandError(f"--tls: {error}", exit_code=EXIT_USAGE) from None
        self._stub = rpc.AdminServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def snapshot(self, *, num_recent_placements: int = 0) -> Snapshot:
        """The scheduler's view now."""
        with self._errors():
            request = pb.SnapshotRequest(num_recent_placements=num_recent_placements)
            response = await self._stub.Snapshot(request, timeout=CALL_TIMEOUT_S)
            return _snapshot(response.snapshot)

    async def watch(self, *, interval_s: float, num_recent_placements: int = 0) -> AsyncIterator[Snapshot]:
        """A snapshot now and then every `interval_s`, until the caller stops."""
        with self._errors():
            request = pb.WatchRequest(interval_s=interval_s, num_recent_placements=num_recent_placements)
            async for response in self._stub.Watch(request):
                yield _snapshot(response.snapshot)

    async def drain(self, worker_id: str, *, timeout_s: float) -> Drained:
        """Stop placements on a worker; wait until nothing is in flight there or `timeout_s` has passed."""
        with self._errors():
            request = pb.DrainRequest(worker_id=worker_id, timeout_s=timeout_s)
            response = await self._stub.Drain(request, timeout=timeout_s + CALL_TIMEOUT_S)
            return Drained(is_drained=response.drained, num_in_flight=response.num_in_flight)

    async def change_policy(self, policy: str) -> str:
        """Switch the policy; returns the previous one."""
        with self._errors():
            response = await self._stub.ChangePolicy(
                pb.ChangePolicyRequest(policy=policy), timeout=CALL_TIMEOUT_S
            )
            return response.previous_policy

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            line = f"scheduler {self._address}: {error.details() or error.code().name}"
            raise CommandError(line, exit_code=_EXIT_CODES.get(error.code(), EXIT_FAILED)) from None


def _snapshot(message: pb.Snapshot) -> Snapshot:
    return Snapshot(
        at_s=message.at_s,
        epoch=message.epoch,
        policy=message.policy,
        num_waiting=message.num_waiting,
        waiting_tokens=message.waiting_tokens,
        oldest_wait_s=message.oldest_wait_s,
        num_in_flight=message.num_in_flight,
        num_gateways=message.num_gateways,
        num_finished=message.num_finished,
        num_rejected=dict(sorted(message.num_rejected.items())),
        groups=tuple(_group(group) for group in message.groups),
        recent_placements=tuple(_placement(placement) for placement in message.recent_placements),
    )


def _group(message: pb.GroupState) -> GroupSnapshot:
    return GroupSnapshot(
        worker_id=message.worker_id,
        boot_id=message.boot_id,
        address=message.address,
        phase=_PHASES.get(message.phase, "unknown"),
        state=message.state,
        forward_pass_id=message.forward_pass_id,
        last_report_age_s=message.last_report_age_s,
        predicted_pass_s=message.predicted_pass_s,
        num_in_flight=message.num_in_flight,
        is_draining=message.is_draining,
        drain_acknowledged=message.drain_acknowledged,
        ranks=tuple(
            RankSnapshot(
                dp_rank=rank.dp_rank,
                prefill_load_tokens=rank.prefill_load_tokens,
                batch_size=rank.batch_size,
                kv_blocks_used=rank.kv_blocks_used,
                kv_blocks_total=rank.kv_blocks_total,
                chunk_budget_tokens=rank.chunk_budget_tokens,
            )
            for rank in message.ranks
        ),
    )


def _placement(message: pb.Placement) -> PlacementSnapshot:
    return PlacementSnapshot(
        request_id=message.request_id,
        attempt=message.attempt,
        phase=_PHASES.get(message.phase, "unknown"),
        worker_id=message.worker_id,
        dp_rank=message.dp_rank,
        batch_id=message.batch_id,
        batch_size=message.batch_size,
        hold_s=message.hold_s,
    )
