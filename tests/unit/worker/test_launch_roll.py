"""Whom the start of a world waits for: lines of mpirun and the time in, one line for people out."""

from __future__ import annotations

import pytest

from hortator.worker.launch.roll import HERE, Roll
from hortator.worker.launch.script import SAY_HERE

HOSTS = ("pod-0", "pod-1.svc")


def roll(*started: int) -> Roll:
    """Two pods of two ranks; these were started at 1.0."""
    found = Roll(HOSTS, gpus_per_node=2)
    for rank in started:
        found.hear(said(rank, HERE), now=1.0)
    return found


def said(rank: int, words: str, *, stream: str = "stderr") -> str:
    return f"[1,{rank}]<{stream}>:{words}"


@pytest.mark.parametrize(
    ("started", "waits_for"),
    [
        ((), "ranks 0-1 on pod-0, 2-3 on pod-1.svc have not been started"),
        ((0, 1), "ranks 2-3 on pod-1.svc have not been started"),
        ((0, 1, 2), "rank 3 on pod-1.svc has not been started"),
        ((1, 2), "ranks 0 on pod-0, 3 on pod-1.svc have not been started"),
    ],
)
def test_ranks_that_were_not_started_are_named_with_their_host(started, waits_for):
    found = roll(*started)
    assert not found.is_complete
    assert found.waits_for(now=9.0) == waits_for


def test_neighbours_are_one_run_and_others_stand_alone():
    found = Roll(("pod-0",), gpus_per_node=8)
    for rank in (0, 4, 6):
        found.hear(said(rank, HERE), now=1.0)
    assert found.waits_for(now=9.0) == "ranks 1-3,5,7 on pod-0 have not been started"


def test_a_rank_that_says_nothing_while_others_do_is_named():
    found = roll(0, 1, 2, 3)
    for rank in (0, 1, 2):
        found.hear(said(rank, "loading"), now=2.0)
    assert found.is_complete
    assert found.waits_for(now=31.0) == (
        "rank 3 on pod-1.svc has said nothing in the 30 s since being started; others have"
    )


def test_nobody_is_accused_where_nobody_has_said_anything():
    assert roll(0, 1, 2, 3).waits_for(now=61.0) == (
        "none of 4 ranks has said anything in the 60 s since the last started"
    )


def test_where_all_have_spoken_the_one_that_stopped_first_is_named_with_its_last_words():
    found = roll(0, 1, 2, 3)
    for rank in range(4):
        found.hear(said(rank, f"loading shard 1 of 8 ({rank})"), now=2.0)
    for rank in (0, 1, 3):
        found.hear(said(rank, "loading shard 2 of 8"), now=9.0)
    assert found.waits_for(now=302.0) == (
        "rank 2 on pod-1.svc has been silent longest, 300 s since it said: loading shard 1 of 8 (2)"
    )


def test_who_spoke_a_moment_ago_is_not_called_silent():
    found = roll(0, 1, 2, 3)
    for rank in range(4):
        found.hear(said(rank, "loading"), now=2.0)
    assert found.waits_for(now=4.0) == "every rank still says something"


@pytest.mark.parametrize("line", ["ssh: connect to host", "[1,9]<stdout>:words of no rank", said(0, "")])
def test_other_lines_are_no_words_of_a_rank(line):
    found = roll(0, 1, 2, 3)
    found.hear(line, now=2.0)
    assert found.waits_for(now=3.0).startswith("none of 4 ranks")


def test_a_rank_that_is_heard_at_all_has_been_started():
    found = roll(0, 1, 2)
    found.hear(said(3, "its first line was lost", stream="stdout"), now=2.0)
    assert found.is_complete


def test_what_a_rank_says_first_is_what_the_roll_listens_for():
    assert f'echo "{HERE}"' in SAY_HERE[2]
