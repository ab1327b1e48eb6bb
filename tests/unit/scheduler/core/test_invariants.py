"""The checker that every test's teardown trusts: it must notice what it promises to notice."""

import pytest

from hortator.scheduler.core.model import Phase
from hortator.scheduler.core.request import RequestStatus


@pytest.fixture
def broken():
    """A machine with one waiting, one placed and one reserved request, to be damaged by the test."""
    from hortator.scheduler.core.events import RankStateReported, RequestArrived, WorkerJoined
    from hortator.scheduler.core.machine import SchedulerMachine
    from hortator.scheduler.core.model import GroupSpec, RankLoads, SchedulerSettings

    machine = SchedulerMachine(SchedulerSettings())
    idle = RankLoads(prefill_load_tokens=(0,), batch_size=(0,), kv_blocks_used=(0,))
    for group_id, phase in (("p0", Phase.PREFILL), ("d0", Phase.DECODE)):
        spec = GroupSpec(
            group_id=group_id, phase=phase, dp_size=1, chunk_budget_tokens=1000, kv_blocks_total=100
        )
        machine.handle(WorkerJoined(group=spec), 0.0)
        machine.handle(RankStateReported(group_id=group_id, included_dispatch_seq=0, loads=idle), 0.0)
    for name in ("placed", "waiting"):
        machine.handle(RequestArrived(request_id=name, num_prompt_tokens=500), 0.0)
    machine.check_invariants()
    assert len(machine.waiting) == 1
    return machine


def _lose_from_queue(machine):
    machine.waiting.remove(machine.requests["waiting"])


def _miscount_tokens(machine):
    machine.waiting.num_tokens += 1


def _lose_in_flight(machine):
    machine.fleet.groups["p0"].in_flight.clear()


def _place_twice(machine):
    machine.fleet.groups["d0"].in_flight["placed"] = machine.requests["placed"]


def _wait_and_be_placed(machine):
    machine.fleet.groups["p0"].in_flight["waiting"] = machine.requests["waiting"]


def _leak_a_reservation(machine):
    machine.fleet.groups["d0"].reserved_blocks[0] += 1


def _forget_the_gateway(machine):
    machine._by_gateway.clear()


def _lose_between_prefill_and_decode(machine):
    machine.fleet.groups["p0"].in_flight.clear()
    machine.requests["placed"].status = RequestStatus.DECODE_WAITING


def _run_in_the_wrong_role(machine):
    request = machine.requests["placed"]
    machine.fleet.groups["p0"].in_flight.clear()
    machine.fleet.groups["d0"].in_flight["placed"] = request
    request.group_id = "d0"


def _forget_a_request(machine):
    del machine.requests["placed"]


@pytest.mark.parametrize(
    "damage",
    [
        _lose_from_queue,
        _miscount_tokens,
        _lose_in_flight,
        _place_twice,
        _wait_and_be_placed,
        _leak_a_reservation,
        _forget_the_gateway,
        _lose_between_prefill_and_decode,
        _run_in_the_wrong_role,
        _forget_a_request,
    ],
)
def test_damage_is_noticed(broken, damage):
    """Each kind of it."""
    damage(broken)
    with pytest.raises(AssertionError):
        broken.check_invariants()
