"""Fair sharing among tenants: in which order their waiting requests are looked at.

Question answered: whose request should be considered next, so that tenants who all want more than there is
get service in proportion to their weights, and one who wants less waits for nobody's backlog?

Start-time fair queueing. Each tenant with waiting requests has a *lane*, first come first served, whose
*start* says how much service it has had:

    start of a lane    += cost tokens / weight, for each of its requests that is placed
    turn of a request   = start of its lane + (cost tokens before it in the lane) / weight
    start of a new lane = the least start of the others; where this tenant's last one ended if that is more

and requests are considered in order of turn. So a lane that is behind goes first, nobody saves up service
while not waiting, and a newcomer comes after at most one request of each other tenant. What is withdrawn,
times out or is refused is not charged; what comes back from a worker is given back. Between two lanes that
wait all the time the service per weight differs by no more than what the policy takes out of turn and one
request of each.

One lane alone is a plain queue. Cost: O(log lanes) per request, in and out.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from heapq import heappop, heappush, heapreplace
from itertools import takewhile

from hortator.scheduler.core.request import RequestState

_MIN_PRUNE = 64


class Lane:
    """The waiting requests of one tenant, oldest first."""

    __slots__ = ("num_tokens", "requests", "seq", "start", "tenant", "weight")

    def __init__(self, tenant: str, *, weight: float, start: float, seq: int) -> None:
        self.tenant = tenant
        self.weight = weight
        self.start = start
        self.seq = seq  # of the request that it began with; breaks ties
        self.num_tokens = 0  # prompt tokens of them all
        self.requests: OrderedDict[str, RequestState] = OrderedDict()


class FairOrder:
    """Requests of one priority. It ends, and all service is forgotten, when nobody waits any more."""

    __slots__ = ("_by_start", "_ends", "_lanes", "_prune_at", "_weight_of_lanes", "_weights")

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._lanes: dict[str, Lane] = {}
        self._by_start: list[tuple[float, int, Lane]] = []
        self._ends: dict[str, float] = {}  # of lanes that are empty now
        self._prune_at = _MIN_PRUNE
        self._weight_of_lanes = 0.0

    def add(self, request: RequestState) -> None:
        """Append to the tenant's lane."""
        lane = self._lanes.get(request.tenant) or self._open(request)
        lane.requests[request.request_id] = request
        lane.num_tokens += request.num_prompt_tokens

    def put_back(self, request: RequestState) -> None:
        """Undo `take`: into the lane by order of arrival, the service given back."""
        tenant = request.tenant
        lane = self._lanes.get(tenant)
        if lane is None:
            end = self._ends.get(tenant)
            if end is not None:
                self._ends[tenant] = end - request.cost_tokens / self._weight(tenant)
            lane = self._open(request)
        else:
            self._move(lane, -request.cost_tokens)
        insert_by_arrival(lane.requests, request)
        lane.num_tokens += request.num_prompt_tokens

    def take(self, request: RequestState) -> None:
        """Remove a request that is placed: its tenant has had that service."""
        lane = self._lanes[request.tenant]
        del lane.requests[request.request_id]
        lane.num_tokens -= request.num_prompt_tokens
        self._move(lane, request.cost_tokens)
        if not lane.requests:
            self._close(lane)

    def remove(self, request: RequestState) -> None:
        """Remove a request that is not placed."""
        lane = self._lanes[request.tenant]
        del lane.requests[request.request_id]
        lane.num_tokens -= request.num_prompt_tokens
        if not lane.requests:
            self._close(lane)

    def tokens_before_newcomer(self, tenant: str) -> float:
        """Prompt tokens that go before a newcomer: its lane, and what of the others takes turns with that."""
        lane = self._lanes.get(tenant)
        return 0.0 if lane is None else lane.num_tokens * (self._weight_of_lanes / lane.weight)

    def __iter__(self) -> Iterator[RequestState]:
        """In order of turn; O(log lanes) each."""
        if len(self._by_start) == 1:
            yield from self._by_start[0][2].requests.values()
            return
        upcoming: list[tuple[float, int, float, Iterator[RequestState]]] = []
        for start, seq, lane in self._by_start:
            yield from _before(upcoming, (start, seq))
            heappush(upcoming, (start, seq, lane.weight, iter(lane.requests.values())))
        yield from _before(upcoming, (float("inf"), 0))

    def _open(self, request: RequestState) -> Lane:
        tenant = request.tenant
        least = self._by_start[0][0] if self._by_start else 0.0
        start = max(least, self._ends.pop(tenant, 0.0))
        lane = Lane(tenant, weight=self._weight(tenant), start=start, seq=request.seq)
        self._lanes[tenant] = lane
        self._weight_of_lanes += lane.weight
        insort(self._by_start, (start, lane.seq, lane))
        return lane

    def _close(self, lane: Lane) -> None:
        del self._by_start[self._place_of(lane)]
        del self._lanes[lane.tenant]
        self._weight_of_lanes -= lane.weight
        self._ends[lane.tenant] = lane.start
        if len(self._ends) >= self._prune_at and self._by_start:
            least = self._by_start[0][0]
            self._ends = {tenant: end for tenant, end in self._ends.items() if end > least}
            self._prune_at = max(_MIN_PRUNE, 2 * len(self._ends))

    def _move(self, lane: Lane, cost_tokens: float) -> None:
        if len(self._by_start) == 1:
            lane.start += cost_tokens / lane.weight
            self._by_start[0] = (lane.start, lane.seq, lane)
            return
        del self._by_start[self._place_of(lane)]
        lane.start += cost_tokens / lane.weight
        insort(self._by_start, (lane.start, lane.seq, lane))

    def _place_of(self, lane: Lane) -> int:
        return bisect_left(self._by_start, (lane.start, lane.seq))

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)


def _before(
    upcoming: list[tuple[float, int, float, Iterator[RequestState]]], limit: tuple[float, int]
) -> Iterator[RequestState]:
    """Requests whose turn is before `limit`; `upcoming` is a heap of where each lane goes on."""
    while upcoming and upcoming[0][:2] < limit:
        turn, seq, weight, requests = upcoming[0]
        request = next(requests, None)
        if request is None:
            heappop(upcoming)
            continue
        yield request
        heapreplace(upcoming, (turn + request.cost_tokens / weight, seq, weight, requests))


def insert_by_arrival(queue: OrderedDict[str, RequestState], request: RequestState) -> None:
    """Put a request where it was in a queue that is in order of arrival; O(older ones)."""
    queue[request.request_id] = request
    older = list(takewhile(lambda other: other.seq < request.seq, queue.values()))
    for moved in (request, *reversed(older)):
        queue.move_to_end(moved.request_id, last=False)
