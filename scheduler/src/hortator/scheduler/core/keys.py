"""Who holds an idempotency key: at most one request, and at most one attempt that it does not stand for.

A client whose gateway died comes back to another gateway with the same key. What it asked for may still run:
its worker keeps an *orphan* for a while. So a key leads to

- its *holder*, the one request of ours that carries it, and
- *leftovers*: what workers may have under the key though the holder does not stand for it. Either an orphan,
  to which the next claim of the key attaches, or (`is_ending`) something that its worker was told to end.

Rules:

1. A claim is the first attempt of a request. It takes the key from an older holder, if both ask for the same.
   Which is older it cannot know at first, as it hears of them in any order: the last one takes it. Whoever
   lost it while its client was still there comes back, and says for how long that has asked; of two such
   the newer one has it.
2. A claim that cannot attach is *fenced*: it is held until every worker with a leftover has said that nothing
   is there any more, or is lost. So two gateways never have a live attempt each.
3. A later attempt of the same request is not fenced: its gateway takes no tokens of the one before, which is
   told to end.

4. In its first seconds a leader does not know what runs. It holds for a while what clients come back for.

Everything here is soft: after a change of leaders, workers tell what they have, and gateways what they want.
A key is a digest of tenant and idempotency key, its fingerprint one of the whole request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from hortator.scheduler.core.request import RequestState

ORPHAN_CHECK_S = 600.0
"""An orphan of which its worker has said nothing for so long is ended: it may never have been there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """What a group may run under a key, besides what the key's holder stands for."""

    key: str
    fingerprint: str
    group_id: str
    request_id: str
    attempt: int
    is_ending: bool = False
    """Its worker was told to end it, and has not said that it has."""
    came_late: bool = False
    """Its worker told of it when the key's holder was placed already: seconds after a change of leaders."""


class Keys:
    """Holders, leftovers and fenced requests by key."""

    def __init__(self) -> None:
        self.holders: dict[str, RequestState] = {}
        self.leftovers: dict[str, dict[str, Leftover]] = {}
        """By key, then by group: older attempts may be ending elsewhere."""
        self._keys: dict[str, str] = {}  # of leftovers, by request
        self._fenced: dict[str, RequestState] = {}
        self._checks: deque[tuple[float, Leftover]] = deque()

    def hold(self, request: RequestState) -> None:
        """A request with a key begins."""
        self.holders[request.key] = request

    def let_go(self, request: RequestState) -> None:
        """A request with a key is forgotten."""
        del self.holders[request.key]
        self._fenced.pop(request.key, None)

    def leave(self, leftover: Leftover) -> None:
        """A group may have this under the key from now on, in place of what it had."""
        self.leftovers.setdefault(leftover.key, {})[leftover.group_id] = leftover
        self._keys[leftover.request_id] = leftover.key

    def leave_orphan(self, orphan: Leftover, now: float) -> None:
        """A gateway is gone, and this goes on without it."""
        self.leave(orphan)
        self._checks.append((now + ORPHAN_CHECK_S, orphan))

    @property
    def next_check_at(self) -> float | None:
        """When `unheard` has something to look at."""
        return self._checks[0][0] if self._checks else None

    def unheard(self, now: float) -> Iterator[Leftover]:
        """Orphans that are due for their check and still there."""
        while self._checks and self._checks[0][0] <= now:
            _, orphan = self._checks.popleft()
            if self.leftovers.get(orphan.key, {}).get(orphan.group_id) == orphan:
                yield orphan

    def drop(self, leftover: Leftover) -> None:
        """The group has nothing under the key, or what it has has a holder again."""
        groups = self.leftovers[leftover.key]
        del groups[leftover.group_id]
        if not any(other.request_id == leftover.request_id for other in groups.values()):
            self._keys.pop(leftover.request_id, None)
        if not groups:
            del self.leftovers[leftover.key]

    def left_under(self, key: str) -> list[Leftover]:
        """All that groups may have under a key; at most one of it is not ending."""
        return list(self.leftovers.get(key, {}).values())

    def left_by(self, request_id: str, attempt: int) -> list[Leftover]:
        """The leftovers of that name."""
        found = self.left_under(self._keys.get(request_id, ""))
        return [one for one in found if (one.request_id, one.attempt) == (request_id, attempt)]

    def left_on(self, group_id: str) -> list[Leftover]:
        """All that a group may have."""
        return [groups[group_id] for groups in self.leftovers.values() if group_id in groups]

    def fence(self, request: RequestState) -> None:
        """Hold the key's holder until nothing is left."""
        self._fenced[request.key] = request

    def is_fenced(self, request: RequestState) -> bool:
        """Whether the request is held."""
        return self._fenced.get(request.key) is request

    def unfence(self, key: str) -> RequestState | None:
        """Nothing is left: the request that was held for it."""
        return self._fenced.pop(key, None)

    @property
    def fenced(self) -> Iterator[RequestState]:
        """Requests that are held."""
        return iter(self._fenced.values())


def left_by(request: RequestState, *, is_ending: bool = False) -> Leftover:
    """What a placed request's group may run after the request is forgotten."""
    return Leftover(
        key=request.key,
        fingerprint=request.fingerprint,
        group_id=request.group_id,
        request_id=request.request_id,
        attempt=request.attempt,
        is_ending=is_ending,
    )
