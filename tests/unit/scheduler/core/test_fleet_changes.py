"""Workers come, drain and go; leaders and policies change."""

import pytest

from hortator.scheduler.core.commands import Abort
from hortator.scheduler.core.events import (
    ForwardPassEnded,
    ForwardPassStarted,
    LeaderChanged,
    PolicyChanged,
    RankStateReported,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)
from hortator.scheduler.core.model import AbortReason, Phase, RankLoads, SchedulerSettings
from hortator.scheduler.core.policies.registry import POLICY_NAMES, make_policy


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_nothing_is_placed_on_a_group_that_has_not_reported(machine, policy):
    """Its load is unknown."""
    s = machine(policy=policy)
    s.join(reported=False)
    s.arrive("a", now=1.0)
    s.tick(1.5)
    assert s.where == {}
    s.report(now=2.0)
    assert s.where == {"a": ("p0", 0)}


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_nothing_new_is_placed_on_a_draining_group(machine, policy):
    """What runs there goes on, and its reports do not reopen it."""
    s = machine(policy=policy)
    s.join()
    s.arrive("a", now=1.0)
    s.tick(1.5)
    assert s.at(2.0, WorkerDraining(group_id="p0")) == []
    s.report(now=2.1)
    s.arrive("b", now=2.2)
    s.tick(2.5)
    assert s.where == {"a": ("p0", 0)}
    assert s.machine.snapshot(2.5).groups[0].state == "draining"
    assert "a" in s.machine.requests


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_lost_group_hands_back_its_requests_and_is_given_none(machine, policy):
    """The gateway fences the attempt and announces the request again."""
    s = machine(policy=policy)
    s.join()
    s.arrive("a", now=1.0)
    s.tick(1.5)
    assert s.at(2.0, WorkerLost(group_id="p0")) == [
        Abort(request_id="a", attempt=0, gateway_id="g", group_id="p0", reason=AbortReason.WORKER_LOST)
    ]
    s.arrive("a", now=2.1, attempt=1)
    s.tick(2.5)
    assert s.machine.requests["a"].group_id == ""
    s.join("p1", now=3.0)
    assert s.where["a"][0] == "p1"


def test_events_of_a_departed_group_change_nothing(machine, a_group):
    """A report may still be on its way."""
    s = machine()
    zeros = RankLoads(prefill_load_tokens=(0, 0), batch_size=(0, 0), kv_blocks_used=(0, 0))
    for event in (
        RankStateReported(group_id="p9", included_dispatch_seq=0, loads=zeros),
        ForwardPassStarted(group_id="p9", forward_pass_id=1, included_dispatch_seq=0, loads=zeros),
        ForwardPassEnded(
            group_id="p9", forward_pass_id=1, duration_s=1.0, included_dispatch_seq=0, loads=zeros
        ),
        WorkerDraining(group_id="p9"),
        WorkerLost(group_id="p9"),
    ):
        assert s.at(1.0, event) == []
    assert s.machine.fleet.groups == {}


def test_the_same_boot_that_joins_again_keeps_its_requests(machine, a_group):
    """Its stream broke and came back; a pass whose end was lost no longer blocks it."""
    s = machine()
    s.join()
    s.arrive("a", now=0.0)
    s.start_pass(now=0.1)
    assert s.at(1.0, WorkerJoined(group=a_group())) == []
    assert "a" in s.machine.requests
    s.report(now=1.1)
    s.arrive("b", now=1.2)
    assert s.where["b"] == ("p0", 0)


def test_another_boot_replaces_the_old_one(machine, a_group):
    """What ran there is gone; sequences and estimates start again."""
    s = machine()
    s.join()
    s.arrive("a", now=0.0)
    (abort,) = s.at(1.0, WorkerJoined(group=a_group(boot_id="boot-2")))
    assert (abort.request_id, abort.reason) == ("a", AbortReason.WORKER_LOST)
    assert s.group().last_seq == 0
    assert not s.group().placeable


def test_a_new_boot_ends_a_drain(machine, a_group):
    """The drained worker has been replaced."""
    s = machine()
    s.join()
    s.at(0.5, WorkerDraining(group_id="p0"))
    s.join(boot_id="boot-2", now=1.0)
    s.arrive("a", now=1.1)
    assert s.where == {"a": ("p0", 0)}


def test_a_new_leader_places_nothing_before_the_worker_has_reported(machine, dispatched):
    """Dispatch sequences start again at 1, batch ids carry the epoch."""
    s = machine()
    s.join()
    s.arrive("old", now=0.0)
    s.report(now=0.1)
    s.at(1.0, LeaderChanged(epoch=7))
    s.arrive("a", now=1.1)
    assert "a" not in s.where
    (batch,) = dispatched(s.report(now=1.2, seq=0))
    assert batch.dispatch_seq == 1
    assert batch.batch_id.startswith("7-")
    assert s.machine.snapshot(1.2).epoch == 7


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_policy_change_loses_nothing_that_waits(machine, policy):
    """What waited under the old policy is placed by the new one."""
    s = machine(policy="staggered")
    s.join()
    s.start_pass(now=0.0)
    for i in range(4):
        s.arrive(f"r{i}", now=0.1)
    s.at(0.2, PolicyChanged(policy=policy))
    assert s.machine.snapshot(0.2).policy == policy
    s.end_pass(now=0.3)
    s.tick(0.4)
    assert sorted(s.where) == [f"r{i}" for i in range(4)]


def test_an_unknown_policy_is_refused_and_changes_nothing(machine):
    """The error names those there are."""
    s = machine(policy="staggered")
    with pytest.raises(ValueError, match="staggered-plus"):
        s.at(0.0, PolicyChanged(policy="stagered"))
    assert s.machine.snapshot(0.0).policy == "staggered"


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_policy_is_known_by_its_own_name(policy):
    """Settings, LLMService, command line and metrics use the same word."""
    assert make_policy(SchedulerSettings(policy=policy)).name == policy


def test_a_snapshot_shows_what_the_machine_believes(machine):
    """Reported loads plus dispatches since."""
    s = machine()
    s.join("p0")
    s.join("d0", phase=Phase.DECODE, reported=False)
    s.report(now=0.5, prefill_load_tokens=(0, 100))
    s.arrive("a", 300, now=1.1)
    s.start_pass("p0", now=1.1)
    s.arrive("b", 200, now=1.2)
    snapshot = s.machine.snapshot(2.0)
    prefill, decode = snapshot.groups
    assert (snapshot.num_waiting, snapshot.waiting_tokens, snapshot.num_in_flight) == (1, 200, 1)
    assert snapshot.oldest_wait_s == pytest.approx(0.8)
    assert (prefill.state, prefill.num_in_flight, prefill.loads.prefill_load_tokens) == (
        "running",
        1,
        (300, 100),
    )
    assert prefill.last_report_age_s == pytest.approx(0.9)
    assert decode.state == "unreported"
