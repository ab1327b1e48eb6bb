"""When `staggered` releases a batch, who is in it, and in which order they are seated."""

import pytest

from hortator.scheduler.core.events import RequestCancelled
from hortator.scheduler.core.policies.staggered import consider
from hortator.scheduler.core.waiting import WaitingQueue


def _trained(s, group_id="p0", *, passes=6, pass_s=0.2):
    """Run passes beyond warm-up so that T_hat is `pass_s`. Ends at passes x pass_s."""
    for i in range(passes):
        s.run_pass(group_id, start=i * pass_s, end=(i + 1) * pass_s, ran=(500, 500))
    return passes * pass_s


def test_an_idle_group_is_given_a_request_at_once(machine, members):
    """With one engine and no load the added delay is zero."""
    s = machine()
    s.join()
    assert members(s.arrive("a", now=3.0)) == [["a"]]


def test_requests_that_arrive_during_a_pass_are_held_and_released_together_at_its_end(machine, members):
    """One batch, longest first."""
    s = machine()
    s.join()
    s.start_pass(now=0.0)
    assert s.arrive("a", 100, now=0.01) == []
    assert s.arrive("b", 300, now=0.02) == []
    assert s.arrive("c", 200, now=0.03) == []
    assert members(s.end_pass(now=0.2)) == [["b", "c", "a"]]


def test_the_group_that_became_ready_first_is_given_the_work(machine):
    """p1 has been idle for longer than p0."""
    s = machine()
    s.join("p0")
    s.join("p1")
    s.start_pass("p0", now=0.0)
    s.start_pass("p1", now=0.0)
    s.end_pass("p1", now=0.1)
    s.end_pass("p0", now=0.2)
    s.arrive("a", 900, now=0.3)
    assert s.where["a"][0] == "p1"


def test_a_released_group_is_not_given_more_before_it_reports(machine, members):
    """Its batch is on its way; the next request goes to the other group, the third waits."""
    s = machine(min_fill=0.0)
    s.join("p0")
    s.join("p1")
    assert members(s.arrive("a", now=0.0)) == [["a"]]
    assert members(s.arrive("b", now=0.0)) == [["b"]]
    assert members(s.arrive("c", now=0.0)) == []
    assert s.where == {"a": ("p0", 0), "b": ("p1", 0)}


def test_with_an_admission_lead_the_next_batch_is_released_while_a_pass_runs(machine, members):
    """The boundary is the start of the running pass, when the last batch was fetched."""
    s = machine(min_fill=0.0)
    s.join(admission_lead_passes=1)
    assert members(s.arrive("a", 800, now=0.0)) == [["a"]]
    assert members(s.arrive("b", 800, now=0.0)) == []  # a is on its way
    assert members(s.start_pass(now=0.001)) == [["b"]]
    assert members(s.arrive("c", 800, now=0.1)) == []  # b is on its way
    assert members(s.end_pass(now=0.2, seq=1)) == []


@pytest.mark.parametrize("prompt", [99, 500])
def test_little_work_is_held_until_the_interval_after_the_last_release(machine, members, prompt):
    """I = (T_hat + L_hat) / N = (0.2 + 0.001) / 2; a quarter of a full pass (2000 tokens) ends the hold."""
    s = machine()
    s.join("p0")
    s.join("p1")
    now = _trained(s, "p0")
    s.group("p1").estimator.smoothed_s = 0.2
    assert members(s.arrive("first", now=now)) == [["first"]]
    commands = s.arrive("a", prompt, now=now + 0.01)
    if prompt >= 0.25 * 2000:
        assert members(commands) == [["a"]]
        return
    assert members(commands) == []
    wakeup = s.machine.next_wakeup()
    assert wakeup == pytest.approx(now + (0.2 + 0.001) / 2)
    assert members(s.tick(wakeup)) == [["a"]]


def test_a_hold_ends_when_the_waiting_work_reaches_min_fill(machine, members):
    """300 + 300 tokens pass a quarter of 2000."""
    s = machine()
    s.join("p0")
    s.join("p1")
    now = _trained(s, "p0")
    s.arrive("first", now=now)
    assert members(s.arrive("a", 300, now=now + 0.01)) == []
    assert members(s.arrive("b", 300, now=now + 0.02)) == [["a", "b"]]


def test_max_hold_bounds_a_voluntary_hold(machine, members):
    """0.03 s after the arrival, although the interval is longer."""
    s = machine(max_hold_s=0.03)
    s.join("p0")
    s.join("p1")
    now = _trained(s, "p0")
    s.group("p1").estimator.smoothed_s = 0.2
    s.arrive("first", now=now)
    assert members(s.arrive("a", now=now + 0.01)) == []
    wakeup = s.machine.next_wakeup()
    assert wakeup == pytest.approx(now + 0.04)
    assert members(s.tick(wakeup + 1e-9)) == [["a"]]


def test_a_hold_is_counted_from_the_last_release_so_that_sparse_requests_are_not_held(machine, members):
    """A release longer ago than I holds nobody."""
    s = machine()
    s.join("p0")
    s.join("p1")
    now = _trained(s, "p0")
    s.arrive("first", now=now)
    assert members(s.arrive("a", now=now + 5.0)) == [["a"]]


def test_a_fixed_interval_holds_more_than_min_fill_but_not_a_full_batch(machine, members):
    """`interval_s` = 20 ms: 1500 tokens wait for it, 2000 (a full pass) do not."""
    s = machine(interval_s=0.020)
    for group_id in ("p0", "p1", "p2"):
        s.join(group_id)
    assert members(s.arrive("first", now=1.0)) == [["first"]]
    assert members(s.arrive("a", 800, now=1.001)) == []
    assert members(s.arrive("b", 700, now=1.002)) == []
    assert members(s.arrive("c", 300, now=1.003)) == []
    assert members(s.arrive("d", 200, now=1.003)) == [["a", "b", "c", "d"]]
    assert members(s.arrive("e", now=1.004)) == []
    wakeup = s.machine.next_wakeup()
    assert wakeup == pytest.approx(1.023)
    assert members(s.tick(wakeup)) == [["e"]]


def test_no_wakeup_is_asked_for_while_no_group_is_ready(machine):
    """Only a report can help; the queue timeout and the watchdog remain."""
    s = machine(queue_timeout_s=7.0)
    s.join()
    s.start_pass(now=0.0)
    s.arrive("a", now=0.5)
    assert s.machine.next_wakeup() == 7.5


def test_a_request_that_did_not_fit_is_carried_and_goes_first_next_time(machine, members):
    """Carried-over requests before new ones, even shorter ones."""
    s = machine()
    s.join(dp_size=1, kv_blocks_total=1000)
    s.start_pass(now=0.0)
    s.arrive("big", 900, now=0.01)
    s.arrive("small", 200, now=0.02)
    assert members(s.end_pass(now=0.2)) == [["big"]]
    assert s.machine.requests["small"].carried == 1
    s.start_pass(now=0.2)
    s.arrive("big2", 900, now=0.3)
    assert members(s.end_pass(now=0.4)) == [["small"]]
    assert s.machine.requests["big2"].carried == 1


def test_within_carried_and_new_the_longest_goes_first(machine, members):
    """Carried 200 and 300, new 250 and 100: 300 200 | 250 100."""
    s = machine()
    s.join(dp_size=1, kv_blocks_total=1000)
    s.start_pass(now=0.0)
    for name, prompt in (("huge", 950), ("c200", 200), ("c300", 300)):
        s.arrive(name, prompt, now=0.01)
    assert members(s.end_pass(now=0.2)) == [["huge"]]
    s.start_pass(now=0.2)
    s.arrive("n100", 100, now=0.21)
    s.arrive("n250", 250, now=0.22)
    assert members(s.end_pass(now=0.4)) == [["c300", "c200", "n250", "n100"]]


def test_after_max_carry_releases_the_oldest_goes_before_all(machine, members):
    """Longer carried requests win until the request has been passed over `max_carry` times."""
    s = machine(max_carry=2)
    s.join(dp_size=1, kv_blocks_total=1000)
    s.start_pass(now=0.0)
    s.arrive("small", 150, now=0.01)
    now = 0.2
    released = []
    for i in range(4):
        s.arrive(f"b{2 * i}", 600, now=now - 0.1)
        s.arrive(f"b{2 * i + 1}", 900, now=now - 0.1)
        released.append(members(s.end_pass(now=now))[0])
        s.start_pass(now=now)
        now += 0.2
    # At the first release 900 goes and 150 is carried; carried 600 then beats it once more (600 + 150 fit).
    position = next(i for i, batch in enumerate(released) if "small" in batch)
    assert position <= 2
    assert s.machine.settings.max_carry == 2


def test_a_mandatory_request_is_seated_before_longer_carried_ones(machine, members):
    """max_carry 1: both carried once, the oldest first although it is shorter."""
    s = machine(max_carry=1)
    s.join(dp_size=1, kv_blocks_total=1000)
    s.start_pass(now=0.0)
    s.arrive("huge", 1000, now=0.01)
    s.arrive("old", 150, now=0.02)
    s.arrive("new", 90, now=0.03)
    assert members(s.end_pass(now=0.2)) == [["huge"]]  # 1.25 x 1000 tokens considered: huge, old, new
    s.start_pass(now=0.2)
    s.arrive("fresh", 500, now=0.3)
    assert members(s.end_pass(now=0.4)) == [["old", "new", "fresh"]]


def test_prompts_of_several_passes_leave_the_other_ranks_to_others(machine, members):
    """3000 tokens occupy rank 0 for three passes; every boundary fills rank 1."""
    s = machine()
    s.join()
    s.start_pass(now=0.0)
    s.arrive("long", 3000, now=0.01)
    s.arrive("a", 700, now=0.02)
    assert members(s.end_pass(now=0.2)) == [["long", "a"]]
    assert s.where == {"long": ("p0", 0), "a": ("p0", 1)}
    s.start_pass(now=0.2)
    s.arrive("b", 800, now=0.3)
    s.end_pass(now=0.5, prefill_load_tokens=(2000, 0), batch_size=(1, 0))
    assert s.where["b"] == ("p0", 1)


def test_many_long_prompts_do_not_hide_the_short_ones_behind_them(machine):
    """Each takes one chunk budget of the next pass, so four ranks are filled, not one."""
    s = machine()
    s.join(dp_size=4)
    s.start_pass(now=0.0)
    s.arrive("long", 6000, now=0.01)
    for i in range(6):
        s.arrive(f"r{i}", 500, now=0.02)
    s.end_pass(now=0.2)
    assert set(s.where) == {"long", *(f"r{i}" for i in range(6))}


def test_requests_are_considered_oldest_first_up_to_tokens_and_slots(a_group_state, a_request):
    """500 tokens' worth, and no more than there are free slots; a full rank does not eat the others' slots."""
    queue = WaitingQueue()
    for _ in range(10):
        queue.add(a_request(200))
    group = a_group_state()
    assert [r.seq for r in consider(queue, 500, group)] == [1, 2, 3]
    nearly_full = a_group_state(batch_size=(7, 20))
    assert [r.seq for r in consider(queue, 5000, nearly_full)] == [1]


def test_a_higher_priority_is_considered_first(machine, members):
    """FIFO only within a priority."""
    s = machine()
    s.join(dp_size=1, kv_blocks_total=1000)
    s.start_pass(now=0.0)
    s.arrive("low", 700, now=0.01)
    s.arrive("low2", 900, now=0.02)
    s.arrive("high", 900, now=0.03, priority=1)
    s.arrive("high2", 800, now=0.03, priority=1)
    assert members(s.end_pass(now=0.2)) == [["high"]]
    assert s.machine.requests["low2"].carried == 0  # not even considered


def test_a_cancelled_request_makes_no_room_in_the_pass_after_the_one_that_runs(machine, members):
    """What ran is gone, and 700 tokens wait in the engine: a prompt of 900 does not fit beside them."""
    s = machine(min_fill=0.0)
    s.join(admission_lead_passes=1, dp_size=1, chunk_budget_tokens=1000)
    assert members(s.arrive("goes", 800, now=0.0)) == [["goes"]]
    s.start_pass(now=0.001)
    s.at(0.01, RequestCancelled(request_id="goes"))
    s.report(now=0.015)
    assert members(s.arrive("queued", 700, now=0.02)) == [["queued"]]
    s.report(now=0.03, prefill_load_tokens=(700,), batch_size=(1,))
    assert members(s.arrive("next", 900, now=0.04)) == []
