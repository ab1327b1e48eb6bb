"""Who is heard when a pass is chosen, where one tenant asks for more than its share and others do not.

The order of turn (see `fair_order`) says whose requests may go next. It does not say how long the pass is to
be, and that is what a flood does to others once they need not wait behind it: a policy that looks at ages and
at the backlog sees an old, long queue and fills passes to the brim, and everybody in them waits for their
end. So, as long as others wait beside it, a tenant that floods (see `tenant_rates`):

- has no say in which pass is run (neither its ages nor its backlog count);
- rides along with the requests whose turn is not after that of the last one that is heard, in what room the
  pass of the others leaves and without making any rank fuller than theirs. That is its fair share: the time
  of a pass grows with the sum of its tokens, so more than that would be felt by the others;
- gets the passes in which nobody else waits, as long as they may be.

If it is behind in service (its prompts are longer than the passes of the others, say), its requests come
first in order of turn. When those before everybody else's are more than `MAX_OWED` of a pass, all are heard:
so it lags by no more than that. Priorities come before all of this: only the tenants of the highest priority
that waits are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple, Self

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.request import RequestState
from hortator.scheduler.core.waiting import WaitingQueue

MAX_OWED = 0.5
"""Share of a pass that a tenant may be behind in service and not be heard."""


class Hearing(NamedTuple):
    """The considered requests, judged."""

    considered: list[RequestState]
    """Those that may go, in order of turn."""
    unheard: frozenset[str]
    """Tenants that have no say; empty: all have."""

    @classmethod
    def of_all(cls, considered: list[RequestState]) -> Self:
        """Everybody has a say."""
        return cls(considered, frozenset())

    def heard(self, requests: Sequence[RequestState]) -> list[RequestState]:
        """Those of the requests that have a say."""
        return [request for request in requests if request.tenant not in self.unheard]


def hear(
    fleet: Fleet, waiting: WaitingQueue, considered: list[RequestState], room: int, now: float
) -> Hearing:
    """Judge the tenants of the considered requests; O(1) where one tenant waits alone.

    `room`: prefill tokens that fit into the pass.
    """
    if len(waiting.tenants) < 2 or not considered:
        return Hearing.of_all(considered)
    top = considered[0].priority
    rate = fleet.tokens_per_s()
    tenants = dict.fromkeys(request.tenant for request in considered if request.priority == top)
    unheard = frozenset(
        tenant for tenant in tenants if fleet.asked.asks_too_much(tenant, now, tokens_per_s=rate)
    )
    if not unheard or len(unheard) == len(tenants):
        return Hearing.of_all(considered)
    owed = takewhile(lambda request: request.tenant in unheard, considered)
    if sum(request.num_prompt_tokens for request in owed) > MAX_OWED * room:
        return Hearing.of_all(considered)
    last = max(
        index
        for index, request in enumerate(considered)
        if request.priority == top and request.tenant not in unheard
    )
    return Hearing(considered[: last + 1], unheard)
