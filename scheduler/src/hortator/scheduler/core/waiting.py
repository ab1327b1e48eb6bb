"""The waiting queue: FIFO within a priority, higher priorities first, O(1) add and remove."""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator
from itertools import takewhile

from hortator.scheduler.core.request import RequestState


class WaitingQueue:
    """Requests that want a placement, oldest first within each priority."""

    __slots__ = ("_by_priority", "_order", "num_requests", "num_tokens")

    def __init__(self) -> None:
        self._by_priority: dict[int, OrderedDict[str, RequestState]] = {}
        self._order: list[int] = []  # negated priorities, ascending
        self.num_requests = 0
        self.num_tokens = 0

    def add(self, request: RequestState) -> None:
        """Append a request to its priority."""
        queue = self._by_priority.get(request.priority)
        if queue is None:
            queue = self._by_priority[request.priority] = OrderedDict()
            insort(self._order, -request.priority)
        queue[request.request_id] = request
        self.num_requests += 1
        self.num_tokens += request.num_prompt_tokens

    def add_front(self, request: RequestState) -> None:
        """Put a request that was placed before back into its priority, by its order of arrival."""
        self.add(request)
        queue = self._by_priority[request.priority]
        older = list(takewhile(lambda other: other.seq < request.seq, queue.values()))
        for moved in (request, *reversed(older)):
            queue.move_to_end(moved.request_id, last=False)

    def remove(self, request: RequestState) -> None:
        """Take a waiting request out. KeyError when it does not wait."""
        queue = self._by_priority[request.priority]
        del queue[request.request_id]
        if not queue:
            del self._by_priority[request.priority]
            self._order.remove(-request.priority)
        self.num_requests -= 1
        self.num_tokens -= request.num_prompt_tokens

    def __iter__(self) -> Iterator[RequestState]:
        """Highest priority first, oldest first."""
        for negated in self._order:
            yield from self._by_priority[-negated].values()

    def __len__(self) -> int:
        return self.num_requests

    def oldest_wait_s(self, now: float) -> float:
        """Longest wait so far; the heads suffice because each priority is FIFO."""
        return max(
            (now - next(iter(queue.values())).waiting_since for queue in self._by_priority.values()),
            default=0.0,
        )

    def __contains__(self, request: RequestState) -> bool:
        return request.request_id in self._by_priority.get(request.priority, ())
