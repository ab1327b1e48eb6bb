"""What the scheduler wants done: commands in the imperative, carried out by the shell in order."""

from __future__ import annotations

from dataclasses import dataclass

from hortator.scheduler.core.model import AbortReason, Batch, LostReason, Phase, RejectReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """Send the manifest to the batch's worker and each placement to its gateway."""

    batch: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Refuse a request that was never placed, or whose time in the queue is over."""

    request_id: str
    attempt: int
    gateway_id: str
    reason: RejectReason
    retry_after_s: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """End a placement: a correction to the worker, a retraction to a gateway that did not ask for it."""

    request_id: str
    attempt: int
    gateway_id: str
    group_id: str
    reason: AbortReason
    key: str = ""
    """If set, the worker says when nothing runs under this key any more."""
    dispatch_seq: int = 0
    """With a key: what the group was given under it up to this sequence must not begin to run either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """Tell a gateway that its request runs already, under its key, and where."""

    request_id: str
    attempt: int
    gateway_id: str
    group_id: str
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Ask a silent worker for its rank states."""

    group_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclareLost:
    """The watchdog gave up on a worker: close its stream. Its requests were aborted with WORKER_LOST."""

    group_id: str
    boot_id: str
    reason: LostReason = LostReason.SILENT


Command = Dispatch | Reject | Abort | Attach | Probe | DeclareLost
