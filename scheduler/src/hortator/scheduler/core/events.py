"""What can happen to the scheduler: facts in the past tense, from gateways, workers, the shell and the clock.

An event that speaks of an unknown request, an old attempt, or a group that has left is a no-op: gateways
and workers may be a message behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from hortator.scheduler.core.model import GroupSpec, LatencyClass, RankLoads


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestArrived:
    """A gateway holds a request that wants a (first or new) placement."""

    request_id: str
    gateway_id: str = ""
    attempt: int = 0
    num_prompt_tokens: int
    """All that must be prefilled: the prompt and output tokens of earlier attempts."""
    max_output_tokens: int = 1
    block_hashes: tuple[int, ...] = ()
    """Salted chained hashes of full prompt blocks."""
    priority: int = 0
    tenant: str = ""
    latency_class: LatencyClass = LatencyClass.STANDARD
    deadline_at: float | None = None
    key: str = ""
    """Digest of tenant and idempotency key; empty: it has none."""
    fingerprint: str = ""
    """Digest of the whole request: what the key stands for."""
    is_resumed: bool = False
    """Its client has tokens of it already, from another gateway."""
    asked_at: float | None = None
    """It was taken over while its client was still there, who asked then; None: it was not."""
    tokenizer: str = ""
    """Digest of the tokenizer that its prompt was read with; empty: any group will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCancelled:
    """The client went away, or the gateway gave up."""

    request_id: str
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillFinished:
    """The first token is out; the request's KV waits at the prefill group for a decode placement."""

    request_id: str
    attempt: int = 0
    gateway_id: str = ""
    num_prompt_tokens: int = 0
    max_output_tokens: int = 1
    """With `num_prompt_tokens`, lets a scheduler that lost its state place the request all the same."""
    key: str = ""
    fingerprint: str = ""
    tokenizer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """The first output token reached the gateway (Aggregated: prefill is over)."""

    request_id: str
    attempt: int = 0
    ttft_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished:
    """The last token is out, or the request failed for good at the gateway."""

    request_id: str
    attempt: int = 0
    num_output_tokens: int = 0
    ttft_s: float = 0.0
    e2e_s: float = 0.0
    first_gap_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRefused:
    """The worker refused the request or could not be reached: the same attempt wants another placement."""

    request_id: str
    attempt: int = 0
    group_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTransferFailed:
    """The KV lease is gone: the gateway announces the request again under the next attempt."""

    request_id: str
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLost:
    """A gateway's stream ended; the requests it held are gone with it."""

    gateway_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJoined:
    """A worker declared its EP group. A joined group with another boot id replaces the old one."""

    group: GroupSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDraining:
    """Nothing new may be placed there; what runs goes on."""

    group_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost:
    """The worker is gone (stream ended, or the watchdog gave up on it)."""

    group_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPassStarted:
    """A group began a pass: work dispatched from now on waits for the next one."""

    group_id: str
    forward_pass_id: int
    included_dispatch_seq: int
    """Highest dispatch sequence that `loads` contains."""
    loads: RankLoads | None = None
    predicted_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPassEnded:
    """A group ended a pass and can take new work."""

    group_id: str
    forward_pass_id: int
    duration_s: float
    included_dispatch_seq: int
    loads: RankLoads
    pass_prefill_tokens: tuple[int, ...] = ()
    """Prefill tokens each rank ran."""
    pass_decode_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStateReported:
    """A heartbeat, or the answer to a probe."""

    group_id: str
    included_dispatch_seq: int
    loads: RankLoads


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportsRefused:
    """A worker talks nonsense: several reports in a row could not be used. What is known of it is old."""

    group_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSplit:
    """Members that did not reach the worker's gate in time."""

    group_id: str
    batch_id: str
    request_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequest:
    """A request with an idempotency key, as its worker knows it."""

    key: str
    fingerprint: str = ""
    request_id: str
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequestsListed:
    """All requests with a key that a worker has: told when its stream begins, and to a new leader."""

    group_id: str
    requests: tuple[KeyedRequest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequestsEnded:
    """A worker has nothing under these keys any more: orphans ended, or were told to."""

    group_id: str
    requests: tuple[KeyedRequest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderChanged:
    """This scheduler leads in a new epoch, or (0) leads no more.

    Its requests are another leader's now, and are told again when it is ours: they are forgotten without a
    word. Dispatch sequences start again.
    """

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanged:
    """An operator chose another policy; nothing waiting is lost."""

    policy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionStopped:
    """The service drains: arrivals are left to the next scheduler, what waits is still placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """`next_wakeup()` has passed."""


Event = (
    RequestArrived
    | RequestCancelled
    | PrefillFinished
    | FirstToken
    | RequestFinished
    | PlacementRefused
    | KvTransferFailed
    | GatewayLost
    | WorkerJoined
    | WorkerDraining
    | WorkerLost
    | ForwardPassStarted
    | ForwardPassEnded
    | RankStateReported
    | ReportsRefused
    | BatchSplit
    | KeyedRequestsListed
    | KeyedRequestsEnded
    | LeaderChanged
    | PolicyChanged
    | AdmissionStopped
    | TimerFired
)
