"""Builders for the scheduler core's tests: a machine, what its workers would report, and requests.

`machine(...)` makes a `Scenario` around a `SchedulerMachine`: events in at a literal `now`, commands out. When
the test ends, every machine it made proves its invariants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hortator.scheduler.core.commands import Command, Dispatch, Reject
from hortator.scheduler.core.events import (
    Event,
    ForwardPassEnded,
    ForwardPassStarted,
    PrefillFinished,
    RankStateReported,
    RequestArrived,
    TimerFired,
    WorkerJoined,
)
from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.machine import SchedulerMachine
from hortator.scheduler.core.model import Batch, GroupSpec, Phase, RankLoads, SchedulerSettings
from hortator.scheduler.core.request import RequestState


def build_group(group_id: str = "p0", **overrides: Any) -> GroupSpec:
    """Two ranks, a chunk budget of 1000 tokens, room for 100 blocks of 64 tokens per rank."""
    fields: dict[str, Any] = {
        "boot_id": "boot-1",
        "phase": Phase.PREFILL,
        "dp_size": 2,
        "chunk_budget_tokens": 1000,
        "kv_blocks_total": 100,
        "max_batch_size": 8,
    }
    return GroupSpec(group_id=group_id, **(fields | overrides))


def build_loads(group: GroupSpec, **columns: tuple[int, ...]) -> RankLoads:
    """What a worker reports; columns that are not given are zero."""
    zeros = (0,) * group.dp_size
    fields: dict[str, Any] = {"prefill_load_tokens": zeros, "batch_size": zeros, "kv_blocks_used": zeros}
    return RankLoads(**(fields | columns))


class Scenario:
    """A machine and the other sides of its conversations."""

    def __init__(self, **settings: Any) -> None:
        fields: dict[str, Any] = {"policy": "staggered", "decode_reservation": False}
        self.machine = SchedulerMachine(SchedulerSettings(**(fields | settings)))
        self.where: dict[str, tuple[str, int]] = {}
        """Latest placement of each request: (group, DP rank)."""
        self.tokens: dict[str, int] = {}
        """Prefill tokens of that placement."""

    def at(self, now: float, event: Event) -> list[Command]:
        """Hand over one event; placements are remembered in `where`."""
        commands = self.machine.handle(event, now)
        for batch in batches(commands):
            for placement in batch.placements:
                self.where[placement.request_id] = (batch.group_id, placement.dp_rank)
                self.tokens[placement.request_id] = placement.num_prefill_tokens
        return commands

    def group(self, group_id: str = "p0") -> GroupState:
        return self.machine.fleet.groups[group_id]

    def join(
        self, group_id: str = "p0", *, now: float = 0.0, reported: bool = True, **fields: Any
    ) -> list[Command]:
        """A worker joins, and reports that it is idle unless told otherwise."""
        commands = self.at(now, WorkerJoined(group=build_group(group_id, **fields)))
        if reported:
            commands += self.report(group_id, now=now)
        return commands

    def arrive(self, request_id: str, prompt: int = 100, *, now: float = 0.0, **fields: Any) -> list[Command]:
        event = RequestArrived(
            request_id=request_id, num_prompt_tokens=prompt, **({"gateway_id": "g"} | fields)
        )
        return self.at(now, event)

    def report(
        self, group_id: str = "p0", *, now: float, seq: int | None = None, **columns: tuple[int, ...]
    ) -> list[Command]:
        """A heartbeat that includes every dispatch, unless `seq` says which is the last."""
        group = self.group(group_id)
        return self.at(
            now,
            RankStateReported(
                group_id=group_id,
                included_dispatch_seq=group.last_seq if seq is None else seq,
                loads=build_loads(group.spec, **columns),
            ),
        )

    def start_pass(
        self,
        group_id: str = "p0",
        *,
        now: float,
        seq: int | None = None,
        predicted_s: float | None = None,
        loads: bool = True,
        **columns: tuple[int, ...],
    ) -> list[Command]:
        """A pass begins; by default with what the scheduler believes the ranks to have."""
        group = self.group(group_id)
        believed = {
            "prefill_load_tokens": tuple(group.load_tokens),
            "batch_size": tuple(group.batch_size),
            "kv_blocks_used": tuple(group.kv_used),
        }
        return self.at(
            now,
            ForwardPassStarted(
                group_id=group_id,
                forward_pass_id=group.forward_pass_id + 1,
                included_dispatch_seq=group.last_seq if seq is None else seq,
                loads=build_loads(group.spec, **(believed | columns)) if loads else None,
                predicted_s=predicted_s,
            ),
        )

    def end_pass(
        self,
        group_id: str = "p0",
        *,
        now: float,
        seq: int | None = None,
        duration_s: float = 0.2,
        ran: tuple[int, ...] = (),
        **columns: tuple[int, ...],
    ) -> list[Command]:
        """A pass ends and leaves nothing behind, unless columns say so."""
        group = self.group(group_id)
        return self.at(
            now,
            ForwardPassEnded(
                group_id=group_id,
                forward_pass_id=group.forward_pass_id,
                duration_s=duration_s,
                included_dispatch_seq=group.last_seq if seq is None else seq,
                loads=build_loads(group.spec, **columns),
                pass_prefill_tokens=ran,
            ),
        )

    def run_pass(self, group_id: str = "p0", *, start: float, end: float, **ended: Any) -> list[Command]:
        """Start and end a pass; the commands of its end."""
        self.start_pass(group_id, now=start)
        return self.end_pass(group_id, now=end, duration_s=end - start, **ended)

    def finish_prefill(
        self, request_id: str, *, now: float, attempt: int = 0, **fields: Any
    ) -> list[Command]:
        return self.at(now, PrefillFinished(request_id=request_id, attempt=attempt, **fields))

    def tick(self, now: float) -> list[Command]:
        return self.at(now, TimerFired())


def batches(commands: list[Command]) -> list[Batch]:
    """The batches dispatched by the commands."""
    return [command.batch for command in commands if isinstance(command, Dispatch)]


@pytest.fixture
def machine() -> Iterator[Callable[..., Scenario]]:
    """`machine(policy=..., **settings)`; its invariants are checked when the test ends."""
    made: list[Scenario] = []

    def make(**settings: Any) -> Scenario:
        made.append(Scenario(**settings))
        return made[-1]

    yield make
    for scenario in made:
        scenario.machine.check_invariants()


@pytest.fixture
def a_group() -> Callable[..., GroupSpec]:
    """`a_group("p0", dp_size=4, ...)`."""
    return build_group


@pytest.fixture
def a_group_state() -> Callable[..., GroupState]:
    """A group that has reported, by default idle."""

    def make(group_id: str = "p0", **fields: Any) -> GroupState:
        columns = {key: fields.pop(key) for key in RankLoads.__slots__ if key in fields}
        spec = build_group(group_id, **fields)
        group = GroupState(spec, now=0.0, warmup_passes=5)
        group.apply_report(build_loads(spec, **columns), 0)
        return group

    return make


@pytest.fixture
def a_fleet() -> Callable[..., Fleet]:
    """`a_fleet(group, group, ...)`; settings by keyword."""

    def make(*groups: GroupState, **settings: Any) -> Fleet:
        fleet = Fleet(SchedulerSettings(**({"decode_reservation": False} | settings)))
        for group in groups:
            fleet.add(group)
            fleet.refresh_ready(group, 0.0)
        return fleet

    return make


@pytest.fixture
def a_request() -> Callable[..., RequestState]:
    """`a_request(prompt=512)`; arrives at 0 as the n-th of the test."""
    count = 0

    def make(prompt: int = 100, **fields: Any) -> RequestState:
        nonlocal count
        count += 1
        values: dict[str, Any] = {
            "request_id": f"r{count}",
            "attempt": 0,
            "gateway_id": "g",
            "num_prompt_tokens": prompt,
            "max_output_tokens": 1,
            "cost_tokens": float(prompt),
            "now": 0.0,
            "seq": count,
        }
        carried = fields.pop("carried", 0)
        request = RequestState(**(values | fields))
        request.carried = carried
        return request

    return make


@pytest.fixture
def dispatched() -> Callable[[list[Command]], list[Batch]]:
    """The batches among commands."""
    return batches


@pytest.fixture
def members() -> Callable[[list[Command]], list[list[str]]]:
    """Request ids of each dispatched batch, in seating order."""

    def of(commands: list[Command]) -> list[list[str]]:
        return [[p.request_id for p in batch.placements] for batch in batches(commands)]

    return of


@pytest.fixture
def rejected() -> Callable[[list[Command]], dict[str, str]]:
    """Request id -> reason of each rejection."""

    def of(commands: list[Command]) -> dict[str, str]:
        return {c.request_id: c.reason.value for c in commands if isinstance(c, Reject)}

    return of
