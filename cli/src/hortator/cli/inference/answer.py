"""What is asked of a gateway and what it answers, without the wire format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """Everything about a request but its prompt."""

    model: str = ""
    """Empty: the only one."""
    max_tokens: int = 64
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    priority: int = 0
    is_latency_critical: bool = False
    tenant: str = ""
    timeout_s: float = 0.0
    """0: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """New output tokens, in order, without gaps."""

    request_id: str
    token_index: int
    """Of the first of `token_ids`, from 0."""
    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The end of an answer."""

    request_id: str
    finish_reason: str
    """stop or length."""
    num_prompt_tokens: int
    num_cached_prompt_tokens: int
    num_output_tokens: int
    ttft_s: float
    e2e_s: float
    hold_s: float
    """From announcement to placement."""
    first_gap_s: float
    """Between the first and the second token."""
    num_replacements: int
    """Placements after worker failures."""
