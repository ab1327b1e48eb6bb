"""The waiting queue: higher priorities first, tenants fairly within a priority, each tenant's oldest first.

With a single tenant it is first in, first out within a priority. See `fair_order` for what fair means, and
`resumed` for how the turns of resumed requests and newcomers alternate while both wait.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from hortator.scheduler.core.fair_order import FairOrder, insert_by_arrival
from hortator.scheduler.core.model import DEFAULT_RESUMED_SHARE
from hortator.scheduler.core.request import RequestState
from hortator.scheduler.core.resumed import ResumedBound, Turns, in_turns

_NO_WEIGHTS: Mapping[str, float] = MappingProxyType({})


class _Level:
    """The waiting requests of one priority."""

    __slots__ = ("by_arrival", "newcomers", "num_resumed", "num_tokens", "resumed", "resumed_tokens", "turns")

    def __init__(self, weights: Mapping[str, float], resumed_share: float) -> None:
        self.by_arrival: OrderedDict[str, RequestState] = OrderedDict()
        self.newcomers = FairOrder(weights)
        self.resumed = FairOrder(weights)
        self.turns = Turns(resumed_share)
        self.num_tokens = 0
        self.num_resumed = 0
        self.resumed_tokens = 0

    def order_of(self, request: RequestState) -> FairOrder:
        return self.resumed if request.is_resumed else self.newcomers

    @property
    def is_shared(self) -> bool:
        """Do both classes wait?"""
        return 0 < self.num_resumed < len(self.by_arrival)

    def in_turn(self, bound: ResumedBound | None) -> Iterator[RequestState]:
        if self.is_shared:
            return in_turns(self.newcomers, self.resumed, self.turns, bound)
        return iter(self.resumed if self.num_resumed else self.newcomers)


class TenantLoad:
    """What one tenant has waiting, over all priorities."""

    __slots__ = ("num_requests", "num_tokens")

    def __init__(self) -> None:
        self.num_requests = 0
        self.num_tokens = 0


class WaitingQueue:
    """Requests that want a placement.

    Args:
        weights: by tenant; a tenant that is not named weighs 1.
    """

    __slots__ = (
        "_levels",
        "_order",
        "_resumed_share",
        "_weights",
        "num_requests",
        "num_resumed",
        "num_tokens",
        "tenants",
    )

    def __init__(
        self, weights: Mapping[str, float] = _NO_WEIGHTS, *, resumed_share: float = DEFAULT_RESUMED_SHARE
    ) -> None:
        self._weights = weights
        self._resumed_share = resumed_share
        self._levels: dict[int, _Level] = {}
        self._order: list[int] = []  # negated priorities, ascending
        self.num_requests = 0
        self.num_resumed = 0
        self.num_tokens = 0
        self.tenants: dict[str, TenantLoad] = {}
        """Those that have something waiting."""

    def add(self, request: RequestState) -> None:
        """Append a request to its priority, in its tenant's lane."""
        level = self._count(request)
        level.by_arrival[request.request_id] = request
        level.order_of(request).add(request)

    def put_back(self, request: RequestState) -> None:
        """Put a request that was taken back into its priority and lane, by its order of arrival."""
        level = self._count(request)
        insert_by_arrival(level.by_arrival, request)
        level.order_of(request).put_back(request)
        if level.is_shared:
            level.turns.give_back(request)

    def take(self, request: RequestState) -> None:
        """Remove a request because it is placed. KeyError when it does not wait."""
        level = self._levels[request.priority]
        del level.by_arrival[request.request_id]
        level.order_of(request).take(request)
        level.turns.charge(request)
        self._discount(request, level)

    def remove(self, request: RequestState) -> None:
        """Remove a request that is not placed. KeyError when it does not wait."""
        level = self._levels[request.priority]
        del level.by_arrival[request.request_id]
        level.order_of(request).remove(request)
        self._discount(request, level)

    def _count(self, request: RequestState) -> _Level:
        self.num_requests += 1
        self.num_tokens += request.num_prompt_tokens
        load = self.tenants.get(request.tenant)
        if load is None:
            load = self.tenants[request.tenant] = TenantLoad()
        load.num_requests += 1
        load.num_tokens += request.num_prompt_tokens
        level = self._levels.get(request.priority)
        if level is None:
            level = self._levels[request.priority] = _Level(self._weights, self._resumed_share)
            insort(self._order, -request.priority)
        level.num_tokens += request.num_prompt_tokens
        if request.is_resumed:
            self.num_resumed += 1
            level.num_resumed += 1
            level.resumed_tokens += request.num_prompt_tokens
        return level

    def _discount(self, request: RequestState, level: _Level) -> None:
        self.num_requests -= 1
        self.num_tokens -= request.num_prompt_tokens
        load = self.tenants[request.tenant]
        load.num_requests -= 1
        load.num_tokens -= request.num_prompt_tokens
        if not load.num_requests:
            del self.tenants[request.tenant]
        level.num_tokens -= request.num_prompt_tokens
        if request.is_resumed:
            self.num_resumed -= 1
            level.num_resumed -= 1
            level.resumed_tokens -= request.num_prompt_tokens
        if not level.is_shared:
            level.turns.forget()
        if not level.by_arrival:
            del self._levels[request.priority]
            self._order.remove(-request.priority)

    def loads_of(self, tenants: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Waiting requests and prompt tokens of each of the tenants."""
        loads = {tenant: self.tenants.get(tenant) or TenantLoad() for tenant in tenants}
        return {tenant: (load.num_requests, load.num_tokens) for tenant, load in loads.items()}

    def tokens_ahead(self, tenant: str, priority: int) -> float:
        """Prompt tokens that would be served before a newcomer; O(priorities)."""
        num_tokens = 0.0
        for negated in self._order:
            level = self._levels[-negated]
            if -negated > priority:
                num_tokens += level.num_tokens
            elif -negated == priority:
                before = level.newcomers.tokens_before_newcomer(tenant)
                newcomer_tokens = level.num_tokens - level.resumed_tokens
                before = min(newcomer_tokens, before)
                num_tokens += before + min(level.resumed_tokens, level.turns.resumed_beside(before))
        return num_tokens

    def newcomers_from(self, priority: int) -> tuple[int, int]:
        """Newcomers of this priority or a higher one, and their prompt tokens; 0 if this one has none."""
        level = self._levels[priority]
        if level.num_resumed == len(level.by_arrival):
            return 0, 0
        higher = [self._levels[-negated] for negated in self._order if -negated >= priority]
        return (
            sum(len(level.by_arrival) - level.num_resumed for level in higher),
            sum(level.num_tokens - level.resumed_tokens for level in higher),
        )

    def in_turn(self, bound: ResumedBound | None = None) -> Iterator[RequestState]:
        """Highest priority first, in order of turn; the bound says who goes by age."""
        for negated in self._order:
            yield from self._levels[-negated].in_turn(bound)

    def __iter__(self) -> Iterator[RequestState]:
        """Highest priority first, in order of turn."""
        return self.in_turn()

    def __len__(self) -> int:
        return self.num_requests

    def oldest_wait_s(self, now: float) -> float:
        """Longest wait so far; the heads suffice because each priority is kept in order of arrival."""
        return max(
            (now - next(iter(level.by_arrival.values())).waiting_since for level in self._levels.values()),
            default=0.0,
        )

    def __contains__(self, request: RequestState) -> bool:
        level = self._levels.get(request.priority)
        return level is not None and request.request_id in level.by_arrival
