"""Windows of like lengths: what one is worth, and which is chosen."""

import pytest

from hortator.scheduler.core.policies.windows import Windows
from hortator.scheduler.core.request import RequestState

BUDGET = 8192
NUM_RANKS = 4


def _request(seq, tokens):
    return RequestState(
        request_id=f"r{seq}",
        attempt=0,
        gateway_id="g",
        num_prompt_tokens=tokens,
        max_output_tokens=1,
        cost_tokens=tokens * (1.0 + 2.2e-5 * tokens),
        now=0.0,
        seq=seq,
    )


def _pass_s(cost_tokens):
    return 0.060 + 0.137e-3 * cost_tokens


def _duration_s(level, cost_tokens):
    return _pass_s(cost_tokens) + 0.060 * max(0, -(-level // BUDGET) - 1)


def _best(
    lengths,
    *,
    work_value=0.0,
    fullest=0,
    room=None,
    around=None,
    whole_above=float("inf"),
):
    requests = [_request(seq, tokens) for seq, tokens in enumerate(lengths)]
    return Windows(requests, budget=BUDGET, whole_above=whole_above).best(
        num_levels=12,
        num_starts=4,
        fullest=fullest,
        room_under=room or (lambda level: NUM_RANKS * level),
        duration_s=_duration_s,
        work_value=work_value,
        around=around,
    )


def _lengths(choice):
    return [request.num_prompt_tokens for request in choice.requests]


def test_nobody_waits_nothing_is_chosen():
    """And no level binds."""
    choice = _best([])
    assert choice.requests == []
    assert choice.level == BUDGET


def test_a_long_prompt_waits_while_short_ones_do_more_per_second():
    """Two of 200 on each rank are eight in 0.12 s; with the other three it would take 0.7 s."""
    choice = _best([200] * 10 + [4000])
    assert _lengths(choice) == [200] * 8
    assert choice.level == 400


def test_a_high_value_of_work_makes_passes_full():
    """The same requests: the longest pass does most work per second."""
    short = _best([200] * 10 + [4000] * 8)
    full = _best([200] * 10 + [4000] * 8, work_value=1.0)
    assert sum(_lengths(short)) < 0.2 * NUM_RANKS * BUDGET
    assert sum(_lengths(full)) > 0.8 * NUM_RANKS * BUDGET


def test_a_window_may_begin_among_the_long_ones():
    """Work counts: those of 4000 go together, two on each rank, and not behind twenty short ones."""
    choice = _best([1000] * 20 + [4000] * 8, work_value=1.0)
    assert set(_lengths(choice)) == {4000}


def test_a_level_is_never_below_what_the_fullest_rank_holds():
    """Room that costs nothing is used."""
    choice = _best([200] * 10 + [4000], fullest=5000)
    assert choice.level >= 5000
    assert _lengths(choice) == [4000] + [200] * 10


def test_a_window_holds_no_more_than_the_room():
    """Tokens that fit over all ranks."""
    choice = _best([1000] * 20, room=lambda level: 5500)
    assert sum(_lengths(choice)) == 5000


def test_a_prompt_of_several_passes_shares_its_value_among_them():
    """Two passes of 8192 for one request are worth less than one for one."""
    choice = _best([6000, 16_000], room=lambda level: 8192 if level == BUDGET else 0)
    assert _lengths(choice) == [6000]


def test_a_lone_prompt_of_several_passes_is_chosen():
    """At the full budget."""
    choice = _best([50_000])
    assert _lengths(choice) == [50_000]
    assert choice.level == BUDGET


@pytest.mark.parametrize("lengths", [[300, 300, 300], [1, 8192], [8192] * 9])
def test_the_requests_come_longest_first(lengths):
    """As the seating wants them."""
    chosen = _lengths(_best(lengths))
    assert chosen == sorted(chosen, reverse=True)


@pytest.mark.parametrize("around", [300, 3000, 8000])
def test_a_window_around_a_length_holds_it_or_ends_next_to_it(around):
    """Whatever else would be worth more."""
    lengths = [100 * (1 + i) for i in range(80)]
    held = _lengths(_best(lengths, around=around))
    assert min(held) <= around <= max(held) + 100


def test_a_window_around_a_length_beyond_all_is_of_the_longest():
    """A prompt of several passes keeps company with the longest there are."""
    held = _lengths(_best([50] * 40 + [6000] * 6, around=20_000))
    assert set(held) == {6000}


def test_nobody_is_around():
    """The one that must go is alone."""
    assert _best([], around=500).requests == []


def test_very_long_prompts_go_with_their_like():
    """Work counts: four of 80 000 begin and end together; with a 20 000 among them its rank would idle."""
    lengths = [20_000] * 2 + [80_000] * 4
    choice = _best(lengths, whole_above=16_000, work_value=0.001)
    assert _lengths(choice) == [80_000] * 4
    assert choice.level == 80_000


def test_a_very_long_prompt_is_judged_by_all_its_passes():
    """Ten passes, each slower than the one before: two of 6 000 are worth more per second."""
    choice = _best([6000] * 2 + [80_000], whole_above=16_000)
    assert _lengths(choice) == [6000] * 2
