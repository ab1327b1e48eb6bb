"""One thing that is wrong with an LLMService."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a manifest."""

    path: str
    """The field as YAML spells it, for example ``spec.roles[0].nodes``; empty for the whole file."""
    message: str
    """What is wrong and, in brackets, what is allowed."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message
