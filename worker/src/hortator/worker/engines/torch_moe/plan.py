"""What the engine tells a rank and what the rank answers. Plain data, pickled over a socket pair.

The engine decides everything (who runs, which blocks, which token is sampled how); a rank executes. That
makes a pass a pure function of its plan and the KV cache, and gives batching a single place.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePlan:
    """How to choose the token after a step."""

    temperature: float
    top_p: float
    top_k: int
    seed: int
    position: int
    """Absolute position of the token to choose; prompt tokens count."""
    banned_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceStep:
    """Run some tokens of one sequence through the model."""

    token_ids: tuple[int, ...]
    start: int
    """Position of the first of them; all positions before are in the KV cache."""
    block_ids: tuple[int, ...]
    """KV blocks of positions 0 .. start + len(token_ids) - 1."""
    sample: SamplePlan | None
    """None while the prompt is not complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvImport:
    """KV handed over from a prefill group, to be written before the pass."""

    block_ids: tuple[int, ...]
    num_tokens: int
    data: bytes
    """float32 [layers, 2, num_tokens, kv_heads, head_dim]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPlan:
    """One rank's part of a forward pass; empty parts are sent too, because every rank joins every pass."""

    forward_pass_id: int
    steps: tuple[SequenceStep, ...] = ()
    imports: tuple[KvImport, ...] = ()
    return_logits: bool = False
    """Also answer the logits of every token of every step (tests compare them with the reference)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """The sampled token of each step (None where nothing was to sample)."""

    token_ids: tuple[int | None, ...]
    logits: tuple[bytes, ...] = ()
    """Per step, float32 [tokens, vocab]; only when asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadKv:
    """Ask for the KV of the first `num_tokens` positions in these blocks."""

    block_ids: tuple[int, ...]
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSetup:
    """What a rank needs to come up: import torch, load its weights."""

    dp_rank: int
    dp_size: int
    parent_pid: int
    weights_path: str
    store_path: str
    """A file all ranks of the group meet through."""
    kv_blocks: int
    tokens_per_block: int
    collective_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinGroup:
    """Meet the other ranks and run a first pass. Sent when all have loaded, so that none waits long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankReady:
    """The rank did what it was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFailed:
    """The rank cannot go on; it ends after saying so."""

    message: str
