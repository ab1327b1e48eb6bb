"""What the scheduler and workers tell the gateway, as plain values (codec turns protos into these)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """Which part of a request a placement is for."""

    PREFILL = "prefill"
    DECODE = "decode"
    AGGREGATED = "aggregated"


class RejectReason(Enum):
    """Why the scheduler refused a request."""

    QUEUE_FULL = "queue_full"
    PREDICTED_WAIT = "predicted_wait"
    DEADLINE = "deadline"
    NO_WORKER = "no_worker"
    QUEUE_TIMEOUT = "queue_timeout"
    PROMPT_TOO_LONG = "prompt_too_long"
    DRAINING = "draining"
    TENANT_QUOTA = "tenant_quota"
    KEY_REUSED = "key_reused"
    TAKEN_OVER = "taken_over"
    OTHER = "other"


class RetractReason(Enum):
    """Why a placement no longer holds."""

    WORKER_LOST = "worker_lost"
    DEADLINE = "deadline"
    BATCH_SPLIT = "batch_split"
    TAKEN_OVER = "taken_over"


class CompletionReason(Enum):
    """How a worker ended a request."""

    STOP = "stop"
    LENGTH = "length"
    PREFILLED = "prefilled"
    ABORTED = "aborted"
    FAILED = "failed"
    REFUSED = "refused"
    KV_LOST = "kv_lost"
    TAKEN_OVER = "taken_over"


@dataclass(frozen=True, slots=True)
class WorkerTarget:
    """One boot of one worker process: what a Submit stream leads to."""

    address: str
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSource:
    """Where the KV of a prefilled request waits under a lease."""

    worker_address: str
    boot_id: str
    lease_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where an attempt goes, and with which batch."""

    request_id: str
    attempt: int
    phase: Phase
    worker_id: str
    target: WorkerTarget
    dp_rank: int = 0
    batch_id: str = ""
    batch_size: int = 1
    dispatch_seq: int = 0
    epoch: int = 0
    attaches: bool = False
    """It runs there already, under its idempotency key."""
    is_degraded: bool = False
    """This gateway chose the worker, having no leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """The scheduler does not take an attempt."""

    request_id: str
    attempt: int
    reason: RejectReason
    retry_after_s: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraction:
    """A placement that no longer holds."""

    request_id: str
    attempt: int
    reason: RetractReason


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCompletion:
    """A worker's one and last word on an attempt."""

    request_id: str
    attempt: int
    reason: CompletionReason
    num_output_tokens: int = 0
    num_cached_prompt_tokens: int = 0
    message: str = ""
    kv_source: KvSource | None = None
    field: str = ""
    """REFUSED: the field at fault; empty when another placement may work."""


class SubmitMode(Enum):
    """What a worker is asked to run."""

    AGGREGATED = "aggregated"
    PREFILL_ONLY = "prefill_only"
    DECODE_ONLY = "decode_only"
    ATTACH = "attach"
    """Nothing new: go on with what runs there under the request's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSampling:
    """Sampling as workers need it; `max_tokens` counts all output tokens, prior ones included."""

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an idempotency key says outside its gateway: digests, never key or prompt. Empty: no key."""

    key_hash: bytes = b""
    """Of tenant and key."""
    request_hash: bytes = b""
    """Of the whole request: the same key must not mean something else."""


NO_CLAIM = Claim()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One attempt on its way to a worker."""

    placement: Placement
    mode: SubmitMode
    prompt_token_ids: Sequence[int]
    prior_output_ids: Sequence[int]
    block_hashes: Sequence[int]
    sampling: WorkerSampling
    kv_source: KvSource | None
    claim: Claim = NO_CLAIM
    tokenizer: bytes = b""
    """Digest of what the prompt was read with, where the worker's own is known; empty: it is not."""
