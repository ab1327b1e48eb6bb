"""A request as its gateway holds it in a disturbed run: the gateway's own `RequestMachine` decides.

Beside it is what the simulator must know: on which group an attempt runs, where KV waits, and how far the
tokens have come. Tokens have no content here, only positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from hortator.gateway.placement import (
    CompletionReason,
    KvSource,
    Placement,
    Rejection,
    Retraction,
    RetractReason,
    WorkerCompletion,
    WorkerTarget,
)
from hortator.gateway.placement import Phase as GatewayPhase
from hortator.gateway.placement import RejectReason as GatewayRejectReason
from hortator.gateway.request import RequestMachine
from hortator.scheduler.core.commands import Abort, Reject
from hortator.scheduler.core.model import AbortReason, Batch, Phase, RejectReason
from hortator.scheduler.core.model import Placement as SchedulerPlacement
from hortator.sim.cluster import SimulatedGroup
from hortator.sim.records import RequestRecord
from hortator.worker.engines.simulated.group_request import GroupRequest

PHASES = {
    Phase.PREFILL: GatewayPhase.PREFILL,
    Phase.DECODE: GatewayPhase.DECODE,
    Phase.AGGREGATED: GatewayPhase.AGGREGATED,
}
RETRACT_REASONS = {
    AbortReason.WORKER_LOST: RetractReason.WORKER_LOST,
    AbortReason.BATCH_SPLIT: RetractReason.BATCH_SPLIT,
    AbortReason.DEADLINE: RetractReason.DEADLINE,
    AbortReason.TAKEN_OVER: RetractReason.TAKEN_OVER,
}
REJECT_REASONS = {
    RejectReason.QUEUE_FULL_REQUESTS: GatewayRejectReason.QUEUE_FULL,
    RejectReason.QUEUE_FULL_TOKENS: GatewayRejectReason.QUEUE_FULL,
    RejectReason.PREDICTED_WAIT: GatewayRejectReason.PREDICTED_WAIT,
    RejectReason.DEADLINE: GatewayRejectReason.DEADLINE,
    RejectReason.NO_WORKER: GatewayRejectReason.NO_WORKER,
    RejectReason.QUEUE_TIMEOUT: GatewayRejectReason.QUEUE_TIMEOUT,
    RejectReason.PROMPT_TOO_LONG: GatewayRejectReason.PROMPT_TOO_LONG,
    RejectReason.DRAINING: GatewayRejectReason.DRAINING,
    RejectReason.TENANT_QUOTA: GatewayRejectReason.TENANT_QUOTA,
    RejectReason.KEY_REUSED: GatewayRejectReason.KEY_REUSED,
    RejectReason.TAKEN_OVER: GatewayRejectReason.TAKEN_OVER,
}


class Attempt(GroupRequest):
    """A request inside an engine, and which attempt it is."""

    __slots__ = ("attempt",)

    attempt: int


class Lease(NamedTuple):
    """KV that a prefill group keeps."""

    group: SimulatedGroup
    attempt: Attempt


@dataclass(slots=True, kw_only=True)
class Held:
    """One request at its gateway."""

    machine: RequestMachine
    record: RequestRecord
    length_factor: float
    """What it announces over what it has."""
    running: Attempt | None = None
    """In the engine of `group`."""
    group: SimulatedGroup | None = None
    lease: Lease | None = None
    last_token_at: float = float("nan")
    resumed_at: float = float("nan")
    """Announced again, and no token since."""

    @property
    def num_tokens(self) -> int:
        """Output tokens so far."""
        return len(self.machine.output_ids)

    def announced(self, num_tokens: int) -> int:
        """The length of a prompt as it is announced."""
        return max(1, round(num_tokens * self.length_factor))

    def take(self, num_tokens: int) -> None:
        """So many more output tokens came from the worker of the current attempt."""
        if num_tokens > 0:
            self.machine.accept_tokens(self.machine.attempt, self.num_tokens, [0] * num_tokens)


def target_of(group: SimulatedGroup) -> WorkerTarget:
    """The boot of a worker that the group is."""
    return WorkerTarget(address=group.spec.group_id, boot_id=group.spec.boot_id)


def kv_source_of(group: SimulatedGroup, request_id: str) -> KvSource:
    """Where the KV of a request waits."""
    return KvSource(worker_address=group.spec.group_id, boot_id=group.spec.boot_id, lease_id=request_id)


def placement_of(batch: Batch, placement: SchedulerPlacement, *, boot_id: str) -> Placement:
    """In the gateway's words."""
    return Placement(
        request_id=placement.request_id,
        attempt=placement.attempt,
        phase=PHASES[batch.phase],
        worker_id=batch.group_id,
        target=WorkerTarget(address=batch.group_id, boot_id=boot_id),
        dp_rank=placement.dp_rank,
        batch_id=batch.batch_id,
        batch_size=len(batch.placements),
        dispatch_seq=batch.dispatch_seq,
    )


def completion_of(
    attempt: Attempt,
    reason: CompletionReason,
    *,
    num_output_tokens: int = 0,
    kv_source: KvSource | None = None,
    field: str = "",
) -> WorkerCompletion:
    """A worker's last word on an attempt."""
    return WorkerCompletion(
        request_id=attempt.request_id,
        attempt=attempt.attempt,
        reason=reason,
        num_output_tokens=num_output_tokens,
        kv_source=kv_source,
        field=field,
    )


def rejection_of(command: Reject) -> Rejection:
    """In the gateway's words."""
    return Rejection(
        request_id=command.request_id,
        attempt=command.attempt,
        reason=REJECT_REASONS[command.reason],
        retry_after_s=command.retry_after_s,
        message=command.message,
    )


def retraction_of(command: Abort) -> Retraction | None:
    """In the gateway's words; None where the gateway asked for it."""
    reason = RETRACT_REASONS.get(command.reason)
    if reason is None:
        return None
    return Retraction(request_id=command.request_id, attempt=command.attempt, reason=reason)
