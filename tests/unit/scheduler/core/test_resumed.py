"""Resumed requests beside newcomers: whose turn it is, and how much of a pass the resumed may have."""

from collections import Counter

import pytest

from hortator.scheduler.core.events import PlacementRefused
from hortator.scheduler.core.waiting import WaitingQueue

STAGGERED = pytest.mark.parametrize("policy", ["staggered", "staggered-plus"])


def _ids(requests):
    return " ".join(request.request_id for request in requests)


@pytest.fixture
def queue(a_request):
    """`queue(share, "rrnn")`: requests of 100 tokens that arrive in this order, r0 r1 n2 n3."""

    def make(share, arrivals, **fields):
        waiting = WaitingQueue(resumed_share=share)
        for i, kind in enumerate(arrivals):
            waiting.add(a_request(100, request_id=f"{kind}{i}", is_resumed=kind == "r", **fields))
        return waiting

    return make


@pytest.mark.parametrize(
    ("share", "arrivals", "turns"),
    [
        (0.5, "rrrrnnnn", "r0 n4 r1 n5 r2 n6 r3 n7"),
        (0.5, "nnnnrrrr", "r4 n0 r5 n1 r6 n2 r7 n3"),
        (0.3, "rrrnnnnn", "r0 n3 n4 n5 r1 n6 n7 r2"),
        (0.7, "rrrrrnnn", "r0 n5 r1 r2 n6 r3 r4 n7"),
        (0.5, "rrrr", "r0 r1 r2 r3"),
        (0.5, "nnnn", "n0 n1 n2 n3"),
    ],
)
def test_they_take_turns_in_proportion_whoever_came_first(queue, share, arrivals, turns):
    """By hand, from `ahead`: a resumed request costs 1 / share, a newcomer 1 / (1 - share)."""
    assert _ids(queue(share, arrivals)) == turns


def test_turns_go_on_where_the_last_pass_left_them(queue):
    """Two resumed requests went out of turn: two newcomers are next."""
    waiting = queue(0.5, "rrrrnnnn")
    for request in list(waiting)[:3:2]:
        waiting.take(request)
    assert _ids(waiting) == "n4 n5 r2 n6 r3 n7"


def test_a_refused_placement_gives_the_turn_back(queue):
    waiting = queue(0.5, "rrnn")
    first = next(iter(waiting))
    waiting.take(first)
    assert _ids(waiting) == "n2 r1 n3"
    waiting.put_back(first)
    assert _ids(waiting) == "r0 n2 r1 n3"


def test_nobody_saves_up_turns_while_the_others_do_not_wait(queue, a_request):
    """Four resumed requests went alone; the next one begins with the newcomer as if none had."""
    waiting = queue(0.5, "rrrr")
    for request in list(waiting):
        waiting.take(request)
    for kind in "rn":
        waiting.add(a_request(100, request_id=kind, is_resumed=kind == "r"))
    assert _ids(waiting) == "r n"


def test_priorities_come_before_all_of_this(queue, a_request):
    waiting = queue(0.5, "rrnn")
    waiting.add(a_request(100, request_id="urgent", priority=1))
    assert _ids(waiting) == "urgent r0 n2 r1 n3"


def _in_a_pass(machine, policy, **fields):
    """One group of two ranks with 1000 tokens each, in its first pass."""
    s = machine(policy=policy, gathered_first_s=1e6, age_first_s=1e6, **fields)
    s.join(max_batch_size=50)
    s.start_pass(now=0.0)
    return s


def _arrive(s, kind, num, prompt, *, now=0.1, first=0):
    for i in range(first, first + num):
        s.arrive(f"{kind}{i}", prompt, now=now, attempt=int(kind == "r"))


def _batch(members):
    (batch,) = members
    return Counter(name[0] for name in batch)


@STAGGERED
@pytest.mark.parametrize(("share", "most"), [(0.2, 4), (0.5, 10), (0.8, 16)])
def test_while_newcomers_wait_they_get_their_share_of_a_pass_and_no_more(
    machine, members, policy, share, most
):
    """There is room for 20 prompts of 100 tokens, and more of both wait."""
    s = _in_a_pass(machine, policy, resumed_share=share)
    _arrive(s, "r", 40, 100)
    _arrive(s, "n", 40, 100)
    assert _batch(members(s.end_pass(now=0.2))) == {"r": most, "n": 20 - most}


@STAGGERED
def test_while_nobody_else_waits_they_get_all_of_it(machine, members, policy):
    s = _in_a_pass(machine, policy, resumed_share=0.1)
    _arrive(s, "r", 40, 100)
    assert _batch(members(s.end_pass(now=0.2))) == {"r": 20}


@STAGGERED
def test_what_newcomers_leave_is_theirs(machine, members, policy):
    """Three newcomers leave room for seventeen."""
    s = _in_a_pass(machine, policy, resumed_share=0.1)
    _arrive(s, "r", 40, 100)
    _arrive(s, "n", 3, 100)
    assert _batch(members(s.end_pass(now=0.2))) == {"r": 17, "n": 3}


@STAGGERED
def test_the_share_is_one_of_batch_slots_too(machine, members, policy):
    """Aggregated, where slots are scarce: tokens would not bind prompts of one token."""
    s = machine(policy=policy)
    s.join(max_batch_size=4)
    s.start_pass(now=0.0)
    _arrive(s, "r", 20, 1)
    _arrive(s, "n", 20, 1)
    assert _batch(members(s.end_pass(now=0.2))) == {"r": 4, "n": 4}


@STAGGERED
def test_a_prompt_beyond_the_share_goes_in_its_turn_and_is_paid_back(machine, members, policy):
    """900 tokens of 1000 at a share of a tenth: nine passes of newcomers to one of those."""
    s = machine(policy=policy, resumed_share=0.1, gathered_first_s=1e6, age_first_s=1e6)
    s.join(dp_size=1, max_batch_size=50)
    s.start_pass(now=0.0)
    _arrive(s, "r", 20, 900)
    _arrive(s, "n", 60, 900)
    passes = ""
    for i in range(1, 51):
        (batch,) = members(s.end_pass(now=i / 10))
        passes += "".join(name[0] for name in batch)
        s.start_pass(now=i / 10)
    assert passes.count("r") in {5, 6}


@STAGGERED
def test_neither_starves_whatever_floods(machine, policy):
    """Forty passes with more newcomers than fit, and as many resumed requests at first as fit into ten."""
    s = _in_a_pass(machine, policy, resumed_share=0.25)
    _arrive(s, "r", 200, 100)
    for i in range(1, 41):
        _arrive(s, "n", 25, 100, now=i / 10, first=25 * i)
        s.end_pass(now=i / 10 + 0.05)
        s.start_pass(now=i / 10 + 0.06)
        placed = Counter(name[0] for name in s.where)
        assert placed["r"] == min(200, 5 * i)
        assert placed["n"] >= 15 * i


@STAGGERED
def test_those_who_come_behind_a_backlog_and_before_a_flood_are_done_with_the_backlog(machine, policy):
    """100 newcomers wait already, 100 resumed requests come, then more than fits: ten passes' work, in 15."""
    s = _in_a_pass(machine, policy)
    _arrive(s, "n", 100, 100)
    _arrive(s, "r", 100, 100, now=0.15)
    for i in range(1, 16):
        _arrive(s, "n", 25, 100, now=i / 10 + 0.1, first=100 * i)
        s.end_pass(now=i / 10 + 0.15)
        s.start_pass(now=i / 10 + 0.16)
    assert sum(name[0] == "r" for name in s.where) == 100


@STAGGERED
def test_who_has_waited_for_half_of_the_queue_timeout_is_bound_by_nothing_but_age(machine, members, policy):
    """Neither share nor turns: what has begun is not cut off because others come."""
    for waited_s, expected in ((14.0, {"r": 2, "n": 18}), (16.0, {"r": 20})):
        s = _in_a_pass(machine, policy, resumed_share=0.1, queue_timeout_s=30.0)
        _arrive(s, "r", 40, 100, now=0.1)
        _arrive(s, "n", 40, 100, now=waited_s - 1.0)
        assert _batch(members(s.end_pass(now=waited_s))) == expected


@STAGGERED
def test_where_no_newcomer_fits_a_group_is_not_idle_for_their_turn(machine, members, policy):
    """The newcomers are of another tokenizer: whoever's turn it is, the resumed get their share."""
    s = machine(policy=policy, resumed_share=0.1)
    s.join("p0", tokenizer="01", max_batch_size=50)
    s.join("p1", tokenizer="02", max_batch_size=50)
    s.start_pass("p0", now=0.0)
    s.start_pass("p1", now=0.0)
    for i in range(40):
        s.arrive(f"n{i}", 1000, now=0.1, tokenizer="02")
        s.arrive(f"r{i}", 100, now=0.1, tokenizer="01", attempt=1)
    s.machine.waiting._levels[0].turns.ahead = 1e6
    assert _batch(members(s.end_pass("p0", now=0.2))) == {"r": 2}


def test_what_a_client_brings_from_another_gateway_is_resumed_too(machine):
    """Its first attempt here, with tokens that its client has: prefilled before, and not by its own fault."""
    s = machine(settle_s=0.0)
    s.arrive("a", is_resumed=True, key="k")
    s.arrive("b")
    assert s.machine.requests["a"].is_resumed
    assert not s.machine.requests["b"].is_resumed


def test_a_placement_that_is_refused_does_not_make_a_request_resumed(machine):
    """It was never prefilled, and its attempt stays the first."""
    s = machine()
    s.join()
    s.arrive("a")
    s.at(0.1, PlacementRefused(request_id="a", group_id="p0", reason="busy"))
    assert not s.machine.requests["a"].is_resumed
