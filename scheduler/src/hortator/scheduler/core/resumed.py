"""Resumed requests: what they may have of prefill while newcomers wait, and when it is their turn.

When a worker dies, what ran there is announced again and prefilled elsewhere, with the tokens that were sent:
whole ranks full of it at once. Question answered: how much of the next pass may that be, if those who have
seen nothing yet are not to starve behind it, nor it behind them?

Within a priority, both have service in proportion, `resumed_share` to the rest, as tenants have among
themselves (see `fair_order`):

    ahead   += cost tokens / share, for each resumed request that is placed while newcomers wait
            -= cost tokens / (1 - share), for each newcomer that is placed while resumed requests wait

and it is the turn of the resumed while they are not ahead. Nobody saves up service while the others do not
wait: `ahead` is 0 then.

Turns say who is considered, over all passes; the *bound* says who may be seated in one. Of the room that a
pass has, in prefill tokens and in batch slots, resumed requests get at most their share, or what all waiting
newcomers leave if that is more, or a single request. A prompt that is longer than the share goes all the same
when it is their turn, and is paid back in turns.

A resumed request that has waited for half of the queue timeout is bound by nothing but its age: what has
begun is not cut off because others come. Where no newcomer fits, the turn does not count and the bound does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil
from typing import Protocol

from hortator.scheduler.core.request import RequestState


class Turns:
    """How far the resumed requests of one priority are ahead of its newcomers, in cost tokens over share."""

    __slots__ = ("_share", "ahead")

    def __init__(self, share: float) -> None:
        self._share = share
        self.ahead = 0.0

    def charge(self, request: RequestState) -> None:
        """It is placed."""
        self.ahead += self.step(request)

    def give_back(self, request: RequestState) -> None:
        """It was placed, and is back."""
        self.ahead -= self.step(request)

    def forget(self) -> None:
        """Only one class is left."""
        self.ahead = 0.0

    def step(self, request: RequestState) -> float:
        """What a placement adds to `ahead`."""
        if request.is_resumed:
            return request.cost_tokens / self._share
        return -request.cost_tokens / (1.0 - self._share)

    def resumed_beside(self, newcomer_tokens: float) -> float:
        """Prompt tokens of resumed requests that take turns with so many of newcomers."""
        return newcomer_tokens * self._share / (1.0 - self._share)


class Newcomers(Protocol):
    """What the bound must know of the queue."""

    def newcomers_from(self, priority: int) -> tuple[int, int]:
        """Newcomers of this priority or a higher one, and their prompt tokens; 0 if this one has none."""
        ...


class ResumedBound:
    """What resumed requests may have of one pass.

    Args:
        waiting: who waits beside them.
        share: of the room, while newcomers wait.
        num_tokens: prefill tokens that fit into the pass.
        num_slots: requests that fit into it.
        budget: a longer prompt takes so much of the pass.
        overdue_before: who waits since before is not bound.
        by_arrival: turns do not count, arrival does.
    """

    __slots__ = (
        "_budget",
        "_num_requests",
        "_num_slots",
        "_num_tokens",
        "_overdue_before",
        "_room",
        "_share",
        "_waiting",
        "by_arrival",
    )

    def __init__(
        self,
        waiting: Newcomers,
        *,
        share: float,
        num_tokens: int,
        num_slots: int,
        budget: int,
        overdue_before: float,
        by_arrival: bool = False,
    ) -> None:
        self._waiting = waiting
        self._share = share
        self._room = num_tokens
        self._num_slots = num_slots
        self._budget = budget
        self._overdue_before = overdue_before
        self.by_arrival = by_arrival
        self._num_requests = 0
        self._num_tokens = 0

    def is_overdue(self, request: RequestState) -> bool:
        """Has it waited for so long that it goes by its age?"""
        return request.waiting_since < self._overdue_before

    def allows(self, request: RequestState) -> bool:
        """May it be seated with those that are?"""
        if not request.is_resumed or not self._num_requests or self.is_overdue(request):
            return True
        num_newcomers, newcomer_tokens = self._waiting.newcomers_from(request.priority)
        if not num_newcomers:
            return True
        most_tokens = max(self._share * self._room, self._room - newcomer_tokens)
        most_requests = max(ceil(self._share * self._num_slots), self._num_slots - num_newcomers)
        return (
            self._num_tokens + min(request.num_prompt_tokens, self._budget) <= most_tokens
            and self._num_requests < most_requests
        )

    def count(self, request: RequestState) -> None:
        """It is seated."""
        if request.is_resumed and not self.is_overdue(request):
            self._num_requests += 1
            self._num_tokens += min(request.num_prompt_tokens, self._budget)


def in_turns(
    newcomers: Iterable[RequestState],
    resumed: Iterable[RequestState],
    turns: Turns,
    bound: ResumedBound | None,
) -> Iterator[RequestState]:
    """Both classes as their turns come; who is overdue goes by age."""
    ahead = turns.ahead
    others, begun = iter(newcomers), iter(resumed)
    newcomer, one = next(others, None), next(begun, None)
    while newcomer is not None and one is not None:
        goes_by_age = bound is not None and (bound.by_arrival or bound.is_overdue(one))
        if one.seq < newcomer.seq if goes_by_age else ahead <= 0.0:
            yield one
            ahead += turns.step(one)
            one = next(begun, None)
        else:
            yield newcomer
            ahead += turns.step(newcomer)
            newcomer = next(others, None)
    if newcomer is not None:
        yield newcomer
        yield from others
    if one is not None:
        yield one
        yield from begun
