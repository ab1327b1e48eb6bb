"""A client's request as plain values, before anything has been checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPrompt:
    """Text to continue."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """A conversation to answer."""

    messages: tuple[ChatMessage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrompt:
    """Token ids to continue."""

    token_ids: Sequence[int]


Prompt = TextPrompt | ChatPrompt | TokenPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSampling:
    """Sampling as the client gave it; None where it gave nothing."""

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRequest:
    """What `Generate` was called with."""

    model: str = ""
    prompt: Prompt | None = None
    sampling: ClientSampling = field(default_factory=ClientSampling)
    priority: int = 0
    tenant: str = ""
    latency_critical: bool = False
    idempotency_key: str = ""
    resume_from_index: int = 0
    prior_output_ids: Sequence[int] = ()

    @property
    def needs_tokenizer(self) -> bool:
        """Text goes in, or is looked for in what comes out."""
        return isinstance(self.prompt, TextPrompt | ChatPrompt) or bool(self.sampling.stop)
