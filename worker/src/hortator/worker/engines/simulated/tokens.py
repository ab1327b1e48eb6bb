"""The tokens a simulated engine emits: pseudo-random, a function of (seed, absolute position) only.

So a resumed request, and one that is prefilled here and decoded elsewhere, gets the tokens it would have
got in one place. Absolute position counts prompt and output tokens from 0.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1


class TokenSource:
    """Token ids in [first_token_id, vocab_size): ids below (specials such as end-of-sequence) never occur."""

    __slots__ = ("_first", "_span")

    def __init__(self, vocab_size: int, first_token_id: int) -> None:
        if not 0 <= first_token_id < vocab_size:
            raise ValueError(f"first_token_id {first_token_id} must be under vocab_size {vocab_size}")
        self._first = first_token_id
        self._span = vocab_size - first_token_id

    def token(self, seed: int, position: int) -> int:
        """The token at an absolute position (splitmix64 of both numbers)."""
        x = (seed * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03 + 0x8CB92BA72F3D8DD7) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x ^= x >> 27
        return self._first + (x >> 8) % self._span

    def find_first(self, seed: int, start: int, stop: int, wanted: tuple[int, ...]) -> int | None:
        """First absolute position in [start, stop) whose token is one of `wanted`."""
        if all(token < self._first for token in wanted):
            return None
        for position in range(start, stop):
            if self.token(seed, position) in wanted:
                return position
        return None
