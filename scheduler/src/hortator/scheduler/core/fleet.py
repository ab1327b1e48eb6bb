"""All EP groups, by role, and the decode capacity that a prefill needs before it may start."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from hortator.scheduler.core.demand import Demand
from hortator.scheduler.core.estimates import ArrivalRate, Smoothed
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import Phase, SchedulerSettings
from hortator.scheduler.core.request import RequestState
from hortator.scheduler.core.tenant_rates import TenantRates

MAX_CLOSINGS = 64
"""Running passes remembered before those are dropped that have ended already."""


class Fleet:
    """The groups in order of joining. `entry` are those that take arrivals (Prefill or Aggregated)."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings = settings
        self.groups: dict[str, GroupState] = {}
        self.entry: dict[str, GroupState] = {}
        self.decode: dict[str, GroupState] = {}
        self.ready: dict[str, GroupState] = {}
        """Entry groups that are ready, longest ready first."""
        self._closings: list[tuple[float, str, int]] = []
        """Heap of (when, entry group, forward pass): running passes whose end is predicted."""
        self.output_tokens = Smoothed(float(settings.expected_output_tokens))
        self.arrivals = ArrivalRate()
        self.demand = Demand()
        self.asked = TenantRates(settings.tenant_weights())

    def add(self, group: GroupState) -> None:
        """A group joined."""
        group_id = group.spec.group_id
        self.groups[group_id] = group
        (self.decode if group.spec.phase is Phase.DECODE else self.entry)[group_id] = group

    def remove(self, group_id: str) -> None:
        """A group left."""
        for collection in (self.groups, self.entry, self.decode, self.ready):
            collection.pop(group_id, None)

    def observe_asked(self, tenant: str, num_tokens: int, now: float) -> None:
        """A request arrived, accepted or not. One of several tenants counts for the load up to its share."""
        asked = self.asked
        asked.observe(tenant, num_tokens, now)
        if asked.num_tenants > 1:
            num_shares = asked.num_shares(tenant, now, tokens_per_s=self.tokens_per_s())
            self.arrivals.observe(num_tokens if num_shares <= 1.0 else int(num_tokens / num_shares), now)

    def observe_accepted(self, num_tokens: int, now: float) -> None:
        """A request was accepted. A tenant alone counts with that."""
        if self.asked.num_tenants <= 1:
            self.arrivals.observe(num_tokens, now)

    def refresh_ready(self, group: GroupState, now: float) -> None:
        """Keep `ready` true after anything about a group changed."""
        group_id = group.spec.group_id
        if group_id not in self.entry:
            return
        if group.is_ready:
            if group_id not in self.ready:
                group.ready_since = now
                self.ready[group_id] = group
        else:
            self.ready.pop(group_id, None)

    def watch_end(self, group: GroupState) -> None:
        """A pass of an entry group started: remember when it nears its end."""
        at = group.closes_at
        if at is None or group.spec.group_id not in self.entry:
            return
        heappush(self._closings, (at, group.spec.group_id, group.forward_pass_id))
        if len(self._closings) > MAX_CLOSINGS and len(self._closings) > 4 * len(self.entry):
            self._forget_ended_passes()

    def close_passes(self, now: float) -> None:
        """Make ready the groups whose passes near their end."""
        closings = self._closings
        while closings and closings[0][0] <= now:
            _, group_id, forward_pass_id = heappop(closings)
            group = self.entry.get(group_id)
            if group is not None and group.running and group.forward_pass_id == forward_pass_id:
                group.closing = True
                self.refresh_ready(group, now)

    def _forget_ended_passes(self) -> None:
        """Whoever says that its passes will take days, and ends them, leaves nothing here for days."""
        running = [(group.closes_at, group) for group in self.entry.values()]
        self._closings = sorted(
            (at, group.spec.group_id, group.forward_pass_id) for at, group in running if at is not None
        )

    @property
    def next_closing_at(self) -> float | None:
        """When `close_passes` has something to do."""
        return self._closings[0][0] if self._closings else None

    def placeable_entry(self) -> Iterator[GroupState]:
        """Entry groups that may be given work, ready or not."""
        return (group for group in self.entry.values() if group.placeable)

    def is_read(self, tokenizer: str) -> bool:
        """Whether prompts of this tokenizer can be run; of a role that has no group at all, one may come."""
        if not tokenizer:
            return True
        roles = ([group for group in role.values() if group.placeable] for role in (self.entry, self.decode))
        return all(not groups or any(group.reads(tokenizer) for group in groups) for groups in roles)

    def tokens_per_s(self) -> float:
        """Prefill tokens per second of all placeable entry groups at full passes."""
        return sum(group.full_pass_tokens / group.full_pass_s for group in self.placeable_entry())

    def expected_output(self, max_output_tokens: int) -> int:
        """Output tokens to reserve KV for: the limit, or twice the learned mean if that is less."""
        return min(max_output_tokens, max(32, int(2.0 * self.output_tokens.value)))

    def blocks_on_entry(self, group: GroupState, request: RequestState) -> int:
        """KV blocks of a request on an entry group: its prompt and, Aggregated, a guess of its output."""
        output = 1
        if group.spec.phase is Phase.AGGREGATED:
            output += self.expected_output(request.max_output_tokens)
        return group.blocks_for_sequence(request.num_prompt_tokens, output)

    def reserve_decode(self, request: RequestState) -> tuple[str, int, int] | None:
        """Find a decode rank with room for the request's whole sequence: (group, rank, blocks)."""
        best: tuple[str, int, int] | None = None
        most_free = -1
        output = self.expected_output(request.max_output_tokens)
        for group in self.decode.values():
            if not group.placeable or not group.reads(request.tokenizer):
                continue
            free, rank = group.roomiest_rank()
            if free > most_free:
                blocks = group.blocks_for_sequence(request.num_prompt_tokens, output)
                if free >= blocks:
                    most_free, best = free, (group.spec.group_id, rank, blocks)
        return best

    def hold_reservation(self, request: RequestState, reservation: tuple[str, int, int]) -> None:
        """Book the blocks until the request's decode placement (or its end)."""
        group_id, rank, blocks = reservation
        self.decode[group_id].reserve_kv(rank, blocks)
        request.reservation = reservation

    def drop_reservation(self, request: RequestState) -> None:
        """Give the booked blocks back, if any."""
        if request.reservation is None:
            return
        group_id, rank, blocks = request.reservation
        group = self.decode.get(group_id)
        if group is not None:
            group.return_kv(rank, blocks)
        request.reservation = None
