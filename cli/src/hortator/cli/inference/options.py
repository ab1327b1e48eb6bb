"""What is asked of a gateway beside the prompt."""

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
    is_chat: bool = False
    """The prompt is what a user says; the model's chat template makes a text of it."""
    system: str = ""
    """What is said to the model before; only in a chat."""
