"""Very long prompts gather on few groups, and others keep out of their passes (`staggered-plus`)."""

import pytest

LARGE = {
    "chunk_budget_tokens": 8192,
    "kv_blocks_total": 100_000,
    "max_batch_size": 64,
    "max_sequence_tokens": 200_000,
}


@pytest.fixture
def occupied(machine):
    """`slow` runs a chunk in the middle of a prompt of 100 000 tokens on rank 0; `quick` is idle."""
    s = machine(policy="staggered-plus")
    s.join("slow", **LARGE)
    s.arrive("long", 100_000, now=0.0)
    s.join("quick", **LARGE)
    assert s.where["long"] == ("slow", 0)
    s.start_pass("slow", now=0.0, prefill_load_tokens=(60_000, 0), batch_size=(1, 0))
    return s


def test_another_very_long_prompt_goes_where_one_is_already(occupied, members):
    """It would make `quick` slow for half a minute; on `slow` it costs nobody anything."""
    assert occupied.arrive("second", 60_000, now=0.1) == []
    (batch,) = members(occupied.end_pass("slow", now=3.0, prefill_load_tokens=(51_808, 0), batch_size=(1, 0)))
    assert batch == ["second"]
    assert occupied.where["second"] == ("slow", 1)


def test_a_prompt_that_would_wait_far_longer_there_starts_on_its_own(occupied, members):
    """Two passes of 1.4 s alone, two of 4 s beside the long one."""
    assert members(occupied.arrive("two passes", 9_000, now=0.1)) == [["two passes"]]
    assert occupied.where["two passes"][0] == "quick"


def test_a_short_request_does_not_join_a_pass_that_a_long_prompt_makes_slow(occupied, members):
    """`quick` runs another 0.3 s, and that is sooner than a pass of 4 s."""
    assert members(occupied.arrive("first", 2000, now=2.8)) == [["first"]]
    occupied.start_pass("quick", now=2.8, prefill_load_tokens=(2000, 0), batch_size=(1, 0))
    assert occupied.arrive("short", 100, now=2.9) == []
    assert occupied.end_pass("slow", now=3.0, prefill_load_tokens=(51_808, 0), batch_size=(1, 0)) == []
    assert members(occupied.end_pass("quick", now=3.2)) == [["short"]]


def test_nobody_is_kept_back_when_there_is_nowhere_else(machine, members):
    """The only group."""
    s = machine(policy="staggered-plus")
    s.join("slow", **LARGE)
    s.arrive("long", 100_000, now=0.0)
    s.start_pass("slow", now=0.0, prefill_load_tokens=(60_000, 0), batch_size=(1, 0))
    assert s.arrive("short", 100, now=0.1) == []
    (batch,) = members(s.end_pass("slow", now=3.0, prefill_load_tokens=(51_808, 0), batch_size=(1, 0)))
    assert batch == ["short"]


def test_who_has_waited_for_long_joins_whatever_pass_there_is(occupied, members):
    """`quick` promised to be sooner for 15 s, and never was."""
    assert members(occupied.arrive("first", 2000, now=2.8)) == [["first"]]
    occupied.start_pass("quick", now=2.8, prefill_load_tokens=(2000, 0), batch_size=(1, 0))
    assert occupied.arrive("short", 100, now=2.9) == []
    assert occupied.end_pass("slow", now=3.0, prefill_load_tokens=(51_808, 0), batch_size=(1, 0)) == []
    occupied.start_pass("slow", now=3.0, prefill_load_tokens=(51_808, 0), batch_size=(1, 0))
    occupied.report("quick", now=10.0, prefill_load_tokens=(2000, 0), batch_size=(1, 0))
    late = occupied.end_pass("slow", now=18.0, prefill_load_tokens=(43_616, 0), batch_size=(1, 0))
    assert members(late) == [["short"]]
