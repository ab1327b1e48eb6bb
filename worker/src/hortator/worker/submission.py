"""What passes between a gateway's stream and the host: submissions in, tokens and ends out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hortator.worker.engine import EngineRequest
from hortator.worker.gate import RequestKey


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLocation:
    """Where KV waits under a lease."""

    worker_address: str
    boot_id: str
    lease_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an idempotency key says here: digests. A request with one outlives its gateway for a while."""

    key_hash: bytes
    """Of tenant and key."""
    request_hash: bytes
    """Of the whole request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One member of a batch as a gateway brought it."""

    key: RequestKey
    epoch: int
    batch_id: str
    """Empty: no scheduler chose this; it is a batch of its own."""
    batch_size: int
    dispatch_seq: int
    engine_request: EngineRequest
    """Its `request_id` is `engine_request_id(key)`; `kv_payload` is filled by the host."""
    kv_location: KvLocation | None = None
    """Set exactly when the mode is DECODE_ONLY."""
    claim: Claim | None = None
    tokenizer: bytes = b""
    """Digest of what its prompt was read with and its output will be; empty: its gateway does not know."""
    is_degraded: bool = False
    """Its gateway chose this worker, having no leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A gateway goes on with what runs here under an idempotency key, and calls it `key` from now on."""

    key: RequestKey
    key_hash: bytes
    tokenizer: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidSubmission:
    """A submission that cannot be read: refused without being looked at further."""

    key: RequestKey
    field: str
    message: str


class EndReason(Enum):
    """Why a request ended on this worker, in the words of the wire."""

    STOP = "stop"
    LENGTH = "length"
    PREFILLED = "prefilled"
    ABORTED = "aborted"
    FAILED = "failed"
    REFUSED = "refused"
    KV_LOST = "kv_lost"
    TAKEN_OVER = "taken_over"
    """Another gateway has attached to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The one and last word on a request, to its gateway."""

    key: RequestKey
    reason: EndReason
    num_output_tokens: int = 0
    num_cached_prompt_tokens: int = 0
    message: str = ""
    kv_location: KvLocation | None = None
    """PREFILLED: where the KV waits."""
    field: str = ""
    """REFUSED: the field at fault; empty when another placement may work."""


def engine_request_id(key: RequestKey) -> str:
    """The id a request has inside the engine: attempts of one request are strangers there."""
    request_id, attempt = key
    return f"{request_id}#{attempt}"


def key_of(engine_id: str) -> RequestKey:
    """The inverse of `engine_request_id`."""
    request_id, _, attempt = engine_id.rpartition("#")
    return request_id, int(attempt)
