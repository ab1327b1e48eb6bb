"""What is fuzzed: a boundary, as a function of bytes that raises nothing, whatever the bytes are.

A target calls one boundary as the process does that has it, allows the errors that the boundary documents, and
asserts what must hold afterwards. `hypothesis` gives it messages in form with content out of all reason, and
plain bytes; `hack/fuzz` gives it what covers more code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Target:
    """One boundary."""

    name: str
    run: Callable[[bytes], None]
    """Raises nothing but what is a bug."""
    inputs: SearchStrategy[bytes]
    """In form, with nonsense in it."""
    cases: tuple[bytes, ...] = ()
    """What was a bug once, and what a fuzzer should begin from."""
    bugs: Mapping[str, bytes] = field(default_factory=dict)
    """The same, by what went wrong: each is a test with that name."""

    @property
    def seeds(self) -> tuple[bytes, ...]:
        """What a fuzzer begins from."""
        return (*self.cases, *self.bugs.values())
