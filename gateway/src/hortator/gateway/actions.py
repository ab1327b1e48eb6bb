"""What a request's machine wants done, in the imperative; the driver carries it out in order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hortator.gateway.errors import GatewayError
from hortator.gateway.placement import KvSource, Placement, SubmitMode, WorkerTarget


class Finish(Enum):
    """Why a completed request ended."""

    STOP = "stop"
    LENGTH = "length"


class Replacement(Enum):
    """Why a request was announced again; a label of metrics."""

    CRASH = "crash"
    """Its worker was lost, or failed it."""
    WORKER_LEFT = "worker_left"
    """Its worker drained, or ended it for reasons of its own."""
    BATCH_SPLIT = "batch_split"
    KV_LOST = "kv_lost"
    CLIENT_BACK = "client_back"


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the scheduler that this attempt wants a placement."""

    attempt: int
    num_prompt_tokens: int
    max_output_tokens: int
    replacement: Replacement | None = None
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AnnounceDecode:
    """Tell the scheduler that prefill is over and a decode placement is wanted."""

    attempt: int
    num_prompt_tokens: int
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Tell the scheduler to forget this attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class ReportRefusal:
    """Tell the scheduler, after `delay_s`, that the placement did not work and another is wanted."""

    attempt: int
    worker_id: str
    reason: str
    delay_s: float
    epoch: int
    """Of the leader that placed it; 0: this gateway did, and the scheduler knows nothing of it."""


@dataclass(frozen=True, slots=True)
class ReportKvLost:
    """Tell the scheduler that the KV lease is gone."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Send the attempt to the worker that the placement names."""

    placement: Placement
    mode: SubmitMode
    kv_source: KvSource | None = None


@dataclass(frozen=True, slots=True)
class AbortAttempt:
    """Tell a worker to end an attempt."""

    target: WorkerTarget
    attempt: int


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    """Tell a prefill worker that nobody will pull this KV."""

    kv_source: KvSource


@dataclass(frozen=True, slots=True)
class Complete:
    """The request is done."""

    finish: Finish


@dataclass(frozen=True, slots=True)
class Fail:
    """The request ends with an error."""

    error: GatewayError


Action = (
    Announce
    | AnnounceDecode
    | Withdraw
    | ReportRefusal
    | ReportKvLost
    | Submit
    | AbortAttempt
    | ReleaseLease
    | Complete
    | Fail
)
