"""The Engine port: what a worker needs from anything that runs forward passes.

An engine owns the D DP ranks of one EP group. They run in lock-step: a forward pass includes every
rank and ends when the fullest rank is done. The worker host (service, gate, reporter) talks to an
engine only through the types below; `tests/component/worker/test_engine_contract.py` defines what
an implementation must do. Engines never talk to gRPC and know nothing of each other.

Rules of the port:

1. `submit` is atomic: all requests of the batch are in before the next forward pass is formed. A
   request whose `dp_rank` is out of range, or which can never fit, raises `RequestRefusedError` and then
   *none* of the batch is in.
2. Tokens of one request come in order; `token_index` counts output tokens from 0 *including*
   `prior_output_ids`, so a resumed request continues where the last attempt stopped.
3. Every request that was submitted ends with exactly one `Finished`, whatever happened to it.
4. `abort` takes effect within one forward pass and frees the request's KV blocks; aborting an
   unknown or finished request is a no-op.
5. `forward_passes` yields a `ForwardPassStarted` and later a `ForwardPassEnded` for each pass, in
   order, with ids counting from 1. While idle it yields nothing (the host sends heartbeats).
6. Each async iterator may be consumed once. After `aclose` both end.
7. When the engine dies as a whole, every live request ends as FAILED, then both iterators raise
   `EngineDeadError`, and so does every later `submit`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol


class RequestRefusedError(Exception):
    """A request cannot run on this engine; the batch it came in was not admitted.

    Attributes:
        request_id: the first request at fault.
        field: the field at fault, in the words of the public API (for example ``prompt``).
    """

    def __init__(self, request_id: str, field: str, message: str) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.field = field


class EngineDeadError(Exception):
    """The engine failed as a whole (a rank died, a collective timed out). The worker must exit."""


class RequestMode(Enum):
    """Which part of a request this engine runs."""

    AGGREGATED = "aggregated"
    """Prefill and decode here."""
    PREFILL_ONLY = "prefill_only"
    """Prefill and the first token here; KV blocks are then kept under a lease for `export_kv`."""
    DECODE_ONLY = "decode_only"
    """KV blocks arrive in `kv_payload`; decode starts with the token after the last known one."""


class Admission(Enum):
    """How a batch enters a forward pass."""

    ATOMIC = "atomic"
    BEST_EFFORT = "best_effort"


class FinishReason(Enum):
    """Why a request ended on this engine."""

    STOP = "stop"
    """End-of-sequence or a stop token."""
    LENGTH = "length"
    """`max_tokens` or the engine's sequence limit was reached."""
    PREFILLED = "prefilled"
    """A PREFILL_ONLY request has its first token and its KV blocks wait under a lease."""
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen. Randomness is a function of (seed, absolute token position) only."""

    max_tokens: int = 256
    """Output tokens in total, prior ones included."""
    min_tokens: int = 0
    temperature: float = 0.0
    """0 is greedy; ties go to the lower token id."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means all tokens."""
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One request placed on one DP rank of this engine."""

    request_id: str
    attempt: int = 0
    dp_rank: int
    mode: RequestMode = RequestMode.AGGREGATED
    prompt_token_ids: Sequence[int]
    prior_output_ids: Sequence[int] = ()
    """Output tokens already delivered by an earlier attempt; prefilled after the prompt.
    For DECODE_ONLY it holds at least the first token, which the prefill engine sampled."""
    sampling: Sampling = field(default_factory=Sampling)
    block_hashes: Sequence[int] = ()
    """Salted chained hash (64 bit) of each full prompt block of `EngineInfo.tokens_per_block` tokens;
    the key of the prefix cache. Empty: no prefix reuse. The salt keeps tenants apart."""
    kv_payload: bytes | None = None
    """DECODE_ONLY: everything `export_kv` yielded, joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine is, declared once at start; the contract tests what is declared."""

    model_name: str
    dp_size: int
    ep_size: int
    chunk_budget_tokens: int
    """Prefill tokens per DP rank per forward pass."""
    chunked_prefill: bool
    """False: a prompt is indivisible and must fit the chunk budget."""
    max_batch_size: int
    """Running requests per DP rank."""
    kv_blocks_total: int
    """KV blocks per DP rank."""
    tokens_per_block: int
    max_sequence_tokens: int
    """Prompt plus output tokens of one request."""
    vocab_size: int
    admission: Admission = Admission.ATOMIC
    admission_lead_passes: int = 0
    """1 when the next batch is fetched as the current pass starts (overlap scheduler)."""
    prefix_cache: bool = False
    tokenizer_files: Sequence[Path] = ()
    """What turns text into this model's tokens (`runtime.tokenizer_files`). Empty: there is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChunk:
    """Tokens of one request from one forward pass."""

    request_id: str
    attempt: int
    token_index: int
    """Index of the first token in `token_ids` among the request's output tokens."""
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The one and last word on a request."""

    request_id: str
    attempt: int
    reason: FinishReason
    num_output_tokens: int
    """Output tokens in total, prior ones included."""
    num_cached_prompt_tokens: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLoad:
    """Load of one DP rank, right after (or before) a forward pass."""

    dp_rank: int
    prefill_load_tokens: int
    """Prompt tokens admitted to this rank and not yet computed (prefix-cached ones not counted)."""
    num_waiting: int
    """Requests admitted to this rank of which nothing has been computed yet."""
    batch_size: int
    """Running requests: prefilling or decoding."""
    kv_blocks_used: int
    """Blocks no new request can take: of running requests and of leased KV (cached ones are free)."""
    pass_prefill_tokens: int = 0
    """Prefill tokens this rank ran in the pass."""
    pass_decode_tokens: int = 0
    stored_blocks: tuple[int, ...] = ()
    """Block hashes that became reusable on this rank since the last report."""
    removed_blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPassStarted:
    """A pass began; requests submitted from now on wait for the next one."""

    forward_pass_id: int
    ranks: tuple[RankLoad, ...]
    predicted_s: float | None = None
    """What the engine expects, if it can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPassEnded:
    """A pass ended; the engine can take new work."""

    forward_pass_id: int
    duration_s: float
    ranks: tuple[RankLoad, ...]


ForwardPassReport = ForwardPassStarted | ForwardPassEnded
EngineOutput = TokenChunk | Finished


class Engine(Protocol):
    """Runs forward passes over the DP ranks of one EP group. See the rules in the module docstring."""

    async def start(self) -> EngineInfo:
        """Bring all ranks up. Raises EngineDeadError when one does not come up."""
        ...

    async def submit(self, batch: Sequence[EngineRequest]) -> None:
        """Admit the whole batch before the next pass, or raise RequestRefusedError and admit none."""
        ...

    async def abort(self, request_id: str) -> None:
        """End a request within one pass and free its KV blocks."""
        ...

    def outputs(self) -> AsyncIterator[EngineOutput]:
        """Tokens and ends of all requests. Raises EngineDeadError when the engine fails."""
        ...

    def forward_passes(self) -> AsyncIterator[ForwardPassReport]:
        """What staggered batch scheduling lives on: each pass's start, end and per-rank load."""
        ...

    def rank_loads(self) -> tuple[RankLoad, ...]:
        """Load of every rank now, for heartbeats (pass_* and *_blocks deltas empty)."""
        ...

    def export_kv(self, request_id: str) -> AsyncIterator[bytes]:
        """KV of a PREFILLED request in chunks of at most 1 MiB. KeyError when there is no such lease."""
        ...

    async def release_kv(self, request_id: str) -> None:
        """Free leased KV blocks (acknowledged, cancelled or expired). Unknown ids are a no-op."""
        ...

    async def aclose(self) -> None:
        """Stop all ranks; ends within 10 s and leaves no process behind."""
        ...
