"""The nouns of the core: EP groups, their ranks' loads, settings, and the words for roles and refusals.

Rank columns are tuples indexed by DP rank: one report of a 64-rank group is four tuples, not 64 objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

DEFAULT_RESUMED_SHARE = 0.5


class Phase(Enum):
    """Which part of a request an EP group runs."""

    PREFILL = "prefill"
    DECODE = "decode"
    AGGREGATED = "aggregated"


class LatencyClass(Enum):
    """How a request feels about being held."""

    STANDARD = "standard"
    CRITICAL = "critical"
    """Bypasses every voluntary hold."""


class RejectReason(Enum):
    """Why a request is refused; each maps once to a gRPC status in the gateway."""

    QUEUE_FULL_REQUESTS = "queue_full_requests"
    QUEUE_FULL_TOKENS = "queue_full_tokens"
    PREDICTED_WAIT = "predicted_wait"
    DEADLINE = "deadline"
    NO_WORKER = "no_worker"
    QUEUE_TIMEOUT = "queue_timeout"
    PROMPT_TOO_LONG = "prompt_too_long"
    DRAINING = "draining"
    TENANT_QUOTA = "tenant_quota"
    KEY_REUSED = "key_reused"
    """Its idempotency key was used with another request."""
    TAKEN_OVER = "taken_over"
    """Another gateway has claimed its idempotency key."""


class LostReason(Enum):
    """Why a worker whose stream stands is given up."""

    SILENT = "silent"
    """It has work, says nothing, and does not answer."""
    STALLED = "stalled"
    """It has work and speaks, but runs no pass."""


class AbortReason(Enum):
    """Why a placement no longer holds."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    WORKER_LOST = "worker_lost"
    """The gateway fences the attempt and announces the request again."""
    BATCH_SPLIT = "batch_split"
    """The member missed its batch; the gateway announces it again."""
    GATEWAY_LOST = "gateway_lost"
    TAKEN_OVER = "taken_over"
    """The client came back at another gateway, but nothing could be attached to."""
    SUPERSEDED = "superseded"
    """A newer attempt under the same key is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """What one EP group is; declared by its worker when it joins, constant for its boot."""

    group_id: str
    boot_id: str = ""
    phase: Phase
    dp_size: int
    ep_size: int = 0
    chunk_budget_tokens: int
    """Prefill tokens per DP rank per forward pass."""
    chunked_prefill: bool = True
    max_batch_size: int = 128
    """Running requests per DP rank."""
    kv_blocks_total: int
    """KV blocks per DP rank."""
    tokens_per_block: int = 64
    max_sequence_tokens: int = 1 << 30
    admission_lead_passes: int = 0
    """0: new work joins at the end of a pass. 1: the engine fetches the next batch as a pass starts."""
    tokenizer: str = ""
    """Digest of what turns text into its model's tokens; empty: it says nothing of that."""
    address: str = ""
    """Opaque to the core."""

    @property
    def longest_prompt(self) -> int:
        """Tokens; a longer prompt never fits here."""
        return min(
            self.max_sequence_tokens - 1,
            self.kv_blocks_total * self.tokens_per_block - 1,
            self.max_sequence_tokens
            if self.chunked_prefill or self.phase is Phase.DECODE
            else self.chunk_budget_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLoads:
    """Load of every DP rank of a group as its worker last saw it; columns indexed by DP rank."""

    prefill_load_tokens: tuple[int, ...]
    """Prompt tokens admitted and not yet computed."""
    batch_size: tuple[int, ...]
    """Requests running or waiting in the engine."""
    kv_blocks_used: tuple[int, ...]
    blocks_changed: tuple[BlocksChanged, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksChanged:
    """Prefix-cache blocks that became reusable, or stopped being so, on one rank."""

    dp_rank: int
    stored: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One request on one DP rank."""

    request_id: str
    attempt: int
    gateway_id: str
    dp_rank: int
    num_prefill_tokens: int
    """Prompt tokens that the rank will have to compute (not in its prefix cache); 0 for decode."""
    hold_s: float
    """How long the scheduler held the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Requests that enter one EP group together, before its next forward pass."""

    batch_id: str
    group_id: str
    phase: Phase
    """PREFILL, DECODE or AGGREGATED: which part of the requests runs there."""
    dispatch_seq: int
    """Counts a group's batches from 1 within a leadership epoch."""
    predicted_pass_s: float
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSettings:
    """A tenant that is not like the others."""

    name: str
    """As requests carry it; empty: those that name no tenant."""
    weight: float = 1.0
    """Its share of the service beside the weights of the other tenants that wait; others weigh 1."""
    queue_share: float | None = None
    """Share of the queue that it may hold; None: `max_tenant_share`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """Every knob of the core. Times in seconds, defaults measured in virtual time (see sbs.md in docs)."""

    policy: str = "staggered"
    """A name of the policy registry."""
    interval_s: float | None = None
    """None: adaptive. A number: the fixed window of `fixed-batch` and `staggered` (5-20 ms is usual)."""
    min_fill: float = 0.25
    """`staggered`, `Aggregated`: only work under this share of a full pass may be held."""
    first_token_weight: float = 100.0
    """`Aggregated`: a second's wait for a first token counts as so many of a running sequence."""
    max_hold_s: float = 2.0
    """Upper bound of voluntary hold."""
    max_carry: int = 4
    """Releases that may pass a request over before it is placed first of all."""
    max_waiting_requests: int = 10_000
    """Newcomers beyond it are refused on arrival."""
    max_waiting_tokens: int = 20_000_000
    """Prompt tokens of all waiting requests; newcomers beyond it are refused on arrival."""
    queue_timeout_s: float = 30.0
    """How long a request may wait for a placement."""
    settle_s: float = 2.0
    """How long a new leader holds what clients come back for, until workers have told what runs."""
    tenants: tuple[TenantSettings, ...] = ()
    """Tenants that are not like the others, each once: objects with `name`, `weight` and `queue_share`."""
    max_tenant_share: float = 1.0
    """Share of `max_waiting_requests` and `max_waiting_tokens` that one tenant may hold; 1: all of it."""
    resumed_share: float = DEFAULT_RESUMED_SHARE
    """`staggered*`: share of a pass that resumed requests get at most, while newcomers want the rest."""
    max_wait_s: float | None = None
    """Newcomers whose predicted wait is longer are refused on arrival; None: `queue_timeout_s`."""
    decode_reservation: bool = True
    """Release a prefill only with KV blocks reserved on a decode rank (False: prefill-only studies)."""
    decode_window_s: float = 0.002
    """Decode-ready requests gathered into one round (`staggered*`)."""
    expected_output_tokens: int = 256
    """First guess of the output length for decode reservations; learned afterwards."""
    watchdog_min_s: float = 2.0
    """Silence of a worker with work is always tolerated for this long."""
    watchdog_factor: float = 3.0
    """No report for max(factor x predicted pass, min) or 2.5 s: suspect, and lost after min more."""
    watchdog_stall_s: float = 30.0
    """A worker that has work, speaks, and runs no pass for max(factor x predicted pass, this) is lost."""
    warmup_passes: int = 5
    """First passes of a worker that train no estimate and trip no watchdog."""
    dispatch_latency_s: float = 0.001
    """First guess of the time from a decision to the worker's gate (L_hat)."""
    attention_pair_cost: float = 2.2e-5
    """Quadratic attention: computing n prompt tokens costs as much as n (1 + this x n) linear ones."""
    gathered_first_s: float = 2.0
    """`staggered-plus`: once those that have waited longer fill a quarter of a pass, the oldest is first."""
    age_first_s: float = 5.0
    """`staggered-plus`: once any has waited longer, the oldest goes first, in company of its length."""
    backlog_weight: float = 10.0
    """`staggered-plus`: what a second of backlog makes work worth at half load; more above (beta)."""
    num_levels: int = 12
    """`staggered-plus`: quantiles of the waiting lengths that pass lengths are made of."""
    num_starts: int = 4
    """`staggered-plus`: quantiles of the waiting lengths that windows begin at."""

    def tenant_weights(self) -> dict[str, float]:
        """By name, of those that are not like the others."""
        return {tenant.name: tenant.weight for tenant in self.tenants}
