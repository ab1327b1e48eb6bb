"""A request as the scheduler knows it: lengths, class, and where it is. Never the prompt.

States and the collection that holds a request in each:

- FENCED: in `Keys`; wants a placement once nothing else runs under its idempotency key.
- WAITING: in `WaitingQueue`; wants a placement.
- PLACED: in its group's `in_flight`; prefills there (or, Aggregated, runs there to its end).
- DECODE_WAITING: its KV waits at the prefill group; in the machine's decode-ready list.
- DECODING: in its decode group's `in_flight`.

A request that is rejected, aborted or finished is forgotten.
"""

from __future__ import annotations

from enum import Enum


class RequestStatus(Enum):
    """Where a request is."""

    FENCED = "fenced"
    WAITING = "waiting"
    PLACED = "placed"
    DECODE_WAITING = "decode_waiting"
    DECODING = "decoding"


class RequestState:
    """Mutable; only the machine and the collections it owns write it."""

    __slots__ = (
        "arrived_at",
        "asked_at",
        "attempt",
        "batch_id",
        "block_hashes",
        "carried",
        "cost_tokens",
        "critical",
        "deadline_at",
        "fingerprint",
        "gateway_id",
        "group_id",
        "is_attached",
        "is_resumed",
        "key",
        "max_output_tokens",
        "num_prompt_tokens",
        "prefill_group_id",
        "priority",
        "request_id",
        "reservation",
        "seq",
        "status",
        "tenant",
        "tokenizer",
        "waiting_since",
    )

    def __init__(
        self,
        *,
        request_id: str,
        attempt: int,
        gateway_id: str,
        num_prompt_tokens: int,
        max_output_tokens: int,
        cost_tokens: float,
        now: float,
        seq: int,
        block_hashes: tuple[int, ...] = (),
        priority: int = 0,
        tenant: str = "",
        critical: bool = False,
        deadline_at: float | None = None,
        key: str = "",
        fingerprint: str = "",
        asked_at: float | None = None,
        tokenizer: str = "",
        is_resumed: bool = False,
    ) -> None:
        self.request_id = request_id
        self.attempt = attempt
        self.gateway_id = gateway_id
        self.num_prompt_tokens = num_prompt_tokens
        self.max_output_tokens = max_output_tokens
        self.cost_tokens = cost_tokens  # prompt tokens weighted by their quadratic attention
        self.block_hashes = block_hashes
        self.priority = priority
        self.tenant = tenant
        self.critical = critical
        self.deadline_at = deadline_at
        self.key = key  # digest of tenant and idempotency key
        self.fingerprint = fingerprint
        self.tokenizer = tokenizer  # digest of what its prompt was read with; empty: unknown
        self.is_resumed = is_resumed  # placed before: what is prefilled now was prefilled, or was to be
        self.is_attached = False  # to what ran under its key already
        self.arrived_at = now
        self.asked_at = asked_at  # by its client, if it was taken over once and came back
        self.waiting_since = now
        self.seq = seq  # order of arrival; breaks every tie
        self.carried = 0  # releases that considered the request and passed it over
        self.status = RequestStatus.WAITING
        self.group_id = ""  # PLACED, DECODE_WAITING: prefill group; DECODING: decode group
        self.prefill_group_id = ""  # where its KV is, from PLACED on
        self.batch_id = ""  # the batch that placed it last
        self.reservation: tuple[str, int, int] | None = None  # decode group, rank, KV blocks
