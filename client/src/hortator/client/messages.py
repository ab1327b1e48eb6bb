"""What is asked and what comes back, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTurn:
    """One message of a conversation; the role is system, user or assistant."""

    role: str
    content: str


Prompt = str | Sequence[int] | Sequence[ChatTurn]
"""Text, token ids, or a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; None leaves the choice to the gateway."""

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int = 0
    seed: int = 0
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """New output tokens, in order, without gaps."""

    request_id: str
    token_index: int
    """Index of the first of `token_ids` among the output tokens."""
    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The last word on a generation; times in seconds, as the gateway measured them."""

    request_id: str
    finish_reason: str
    """`stop` or `length`."""
    num_prompt_tokens: int
    num_cached_prompt_tokens: int
    num_output_tokens: int
    ttft_s: float
    e2e_s: float
    hold_s: float
    first_gap_s: float
    num_replacements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A served model."""

    name: str
    max_sequence_tokens: int
    vocab_size: int
    """0: the gateway does not know."""
