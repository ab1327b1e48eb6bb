"""Batches that must be sent before a pass ends, because they are some time on their way."""

import pytest

from hortator.scheduler.core.boundary import FIRST_STEP_S, MAX_SHARE, BoundaryLead

LEFT_OVER = {"batch_size": (1, 0), "prefill_load_tokens": (50, 0)}


@pytest.fixture
def s(machine):
    """p0 runs a pass of a second, and a batch was 20 ms on its way (there, and word of it back)."""
    scenario = machine(min_fill=0.0)
    scenario.join()
    scenario.arrive("r1", 100, now=1.0)
    scenario.start_pass(now=1.02, predicted_s=1.0)
    return scenario


def test_where_messages_take_no_time_nothing_is_sent_before_a_pass_has_ended(machine, members):
    s = machine(min_fill=0.0)
    s.join()
    s.arrive("r1", 100, now=1.0)
    for number in range(20):
        s.start_pass(now=1.0 + number, predicted_s=0.5)
        assert s.group().boundary.lead_s == 0.0
        assert s.arrive(f"n{number}", now=1.9 + number) == []
        assert members(s.end_pass(now=2.0 + number, **LEFT_OVER)) == [[f"n{number}"]]


def test_a_batch_is_sent_as_early_as_the_last_one_was_late(s, members):
    lead_s = s.group().boundary.lead_s
    assert 0.0 < lead_s <= 0.02
    assert s.arrive("r2", now=1.5) == []
    assert s.machine.next_wakeup() == pytest.approx(2.02 - lead_s)
    assert s.tick(2.01 - lead_s) == []
    assert members(s.tick(2.02 - lead_s)) == [["r2"]]


def test_who_arrives_after_that_is_sent_at_once_and_nobody_twice_for_the_same_pass(s, members):
    s.tick(2.02)
    assert members(s.arrive("r2", now=2.021)) == [["r2"]]
    assert s.arrive("r3", now=2.022) == []


def test_a_pass_that_begins_at_once_with_what_was_left_over_is_not_given_a_batch_that_would_miss_it(
    s, members
):
    s.arrive("r2", now=1.5)
    lead_s = s.group().boundary.lead_s
    assert members(s.end_pass(now=1.9, **LEFT_OVER)) == []
    assert s.group().boundary.lead_s > lead_s  # it ended before anything was sent
    s.start_pass(now=1.9, predicted_s=0.5, **LEFT_OVER)
    assert members(s.tick(2.4 - s.group().boundary.lead_s)) == [["r2"]]


def test_a_pass_that_leaves_nothing_over_is_given_work_as_it_ends(s, members):
    s.arrive("r2", now=1.5)
    assert members(s.end_pass(now=1.9)) == [["r2"]]


def test_a_heartbeat_ends_the_wait_for_a_pass_that_never_begins(s, members):
    """What is left over may wait for KV blocks; another rank has room."""
    s.arrive("r2", now=1.5)
    s.end_pass(now=1.9, **LEFT_OVER)
    assert members(s.report(now=2.4, **LEFT_OVER)) == [["r2"]]


def test_a_batch_sent_early_may_fill_what_the_running_pass_takes_off_the_ranks(machine, members):
    s = machine(min_fill=0.0)
    s.join(chunk_budget_tokens=512)
    for number in range(4):
        s.arrive(f"r{number}", 500, now=1.0)
    s.start_pass(now=1.05, predicted_s=1.0, prefill_load_tokens=(512, 512), batch_size=(1, 1))
    (batch,) = members(s.tick(2.05))
    assert len(batch) == 2


def test_the_lead_grows_when_a_batch_misses_its_pass_and_shrinks_while_none_does():
    lead = BoundaryLead()
    lead.joined(None)
    assert lead.lead_s == 0.0
    lead.missed()
    assert lead.lead_s == FIRST_STEP_S
    for _ in range(30):
        lead.missed()
    assert lead.before_end_of(0.1) == MAX_SHARE * 0.1
    for _ in range(200):
        lead.joined(None)
    assert lead.lead_s < FIRST_STEP_S
    for _ in range(60):
        lead.joined(0.015)
    assert lead.lead_s == pytest.approx(0.015, rel=0.01)
