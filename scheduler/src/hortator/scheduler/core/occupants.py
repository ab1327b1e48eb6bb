"""Prompts of several passes that occupy ranks, and what their chunks cost.

A chunk of q tokens costs q (1 + c (2 done + q)) linear ones, where `done` tokens of its prompt were computed
before: attention looks at all of them. So the passes of a prompt of 100 000 tokens become five times as long
towards its end, for every rank of the group: who joins such a group must know.

A rank runs its prompts one after another, and at most one of several passes is started on a rank at a time,
so what is left of a rank's load tells how far that prompt has come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Rest(NamedTuple):
    """What the rank that needs longest has still to run."""

    num_passes: int
    cost_tokens: float


class Occupants:
    """Which prompt of several passes each DP rank of a group runs. `loads`: prefill tokens by rank."""

    __slots__ = ("_budget", "_pair_cost", "_prompts")

    def __init__(self, *, chunk_budget_tokens: int, attention_pair_cost: float) -> None:
        self._budget = chunk_budget_tokens
        self._pair_cost = attention_pair_cost
        self._prompts: dict[int, tuple[str, int]] = {}

    def seat(self, dp_rank: int, request_id: str, num_prompt_tokens: int, num_prefill_tokens: int) -> None:
        """A request was dispatched to a rank; it is remembered if it takes several passes there."""
        if num_prefill_tokens > self._budget:
            self._prompts[dp_rank] = (request_id, num_prompt_tokens)

    def leave(self, request_id: str) -> None:
        """A request left the group."""
        for dp_rank, (occupant, _) in list(self._prompts.items()):
            if occupant == request_id:
                del self._prompts[dp_rank]

    def forget_idle(self, loads: Sequence[int]) -> None:
        """A rank that has nothing left to run has run its prompt."""
        for dp_rank in list(self._prompts):
            if loads[dp_rank] <= 0:
                del self._prompts[dp_rank]

    def done(self, loads: Sequence[int]) -> dict[int, int]:
        """Tokens that were computed before the next chunk, for ranks where there are any."""
        return {
            dp_rank: num_prompt_tokens - loads[dp_rank]
            for dp_rank, (_, num_prompt_tokens) in self._prompts.items()
            if 0 < loads[dp_rank] < num_prompt_tokens
        }

    def chunk_cost(self, num_tokens: int, done: int = 0) -> float:
        """Cost tokens of a chunk on top of `done` computed tokens."""
        return num_tokens * (1.0 + self._pair_cost * (2 * done + num_tokens))

    def next_cost(self, loads: Sequence[int]) -> float:
        """Cost tokens of the fullest rank of the next pass over these loads; 0 when there is nothing."""
        fullest = max(loads)
        cost = self.chunk_cost(min(fullest, self._budget)) if fullest > 0 else 0.0
        for dp_rank, done in self.done(loads).items():
            cost = max(cost, self.chunk_cost(min(loads[dp_rank], self._budget), done))
        return cost

    def rest(self, loads: Sequence[int]) -> Rest:
        """Of the rank whose occupant needs longest; no passes when no load takes more than one."""
        longest = Rest(0, 0.0)
        done = self.done(loads)
        for dp_rank, load in enumerate(loads):
            if load > self._budget:
                cost = self.chunk_cost(load, done.get(dp_rank, 0))
                if cost > longest.cost_tokens:
                    longest = Rest(-(-load // self._budget), cost)
        return longest
