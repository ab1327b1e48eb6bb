"""Choosing a token: a function of logits, settings, seed and position."""

import numpy as np
import pytest

from hortator.worker.engines.torch_moe.plan import SamplePlan
from hortator.worker.engines.torch_moe.sampling import choose, gumbel


def a_plan(**changes):
    settings = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 1, "position": 5}
    return SamplePlan(**(settings | changes))


def logits(*values):
    return np.array(values, dtype=np.float32)


def test_greedy_takes_the_largest_logit_and_the_lowest_id_among_equals():
    assert choose(logits(1, 3, 2, 3), a_plan(temperature=0.0)) == 1


def test_banned_tokens_are_never_chosen():
    assert choose(logits(1, 3, 2), a_plan(temperature=0.0, banned_token_ids=(1,))) == 2
    picks = {choose(logits(1, 9, 2), a_plan(position=p, banned_token_ids=(1,))) for p in range(50)}
    assert picks == {0, 2}


def test_samples_follow_the_softmax_of_the_logits_over_the_temperature():
    """Probabilities of logits (0, 1, 2) at temperature 0.5 are softmax(0, 2, 4) = 0.016, 0.117, 0.867."""
    picks = [choose(logits(0, 1, 2), a_plan(temperature=0.5, position=p)) for p in range(4000)]
    shares = np.bincount(picks, minlength=3) / 4000
    assert shares == pytest.approx([0.016, 0.117, 0.867], abs=0.02)


def test_top_k_keeps_the_k_best():
    picks = {choose(logits(0, 0.1, 0.2, 0.3), a_plan(top_k=2, position=p)) for p in range(100)}
    assert picks == {2, 3}


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    """Probabilities 0.5, 0.3, 0.2: 0.5 does not reach 0.6, 0.5 + 0.3 does."""
    row = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    picks = {choose(row, a_plan(top_p=0.6, position=p)) for p in range(100)}
    assert picks == {0, 1}
    assert {choose(row, a_plan(top_p=1e-9, position=p)) for p in range(20)} == {0}


def test_seed_and_position_decide_alone():
    row = np.zeros(100, dtype=np.float32)
    assert choose(row, a_plan(seed=3, position=8)) == choose(row, a_plan(seed=3, position=8))
    assert len({choose(row, a_plan(seed=3, position=p)) for p in range(50)}) > 30
    assert len({choose(row, a_plan(seed=s, position=8)) for s in range(50)}) > 30


def test_rounding_in_the_last_digits_of_a_logit_does_not_change_the_choice():
    rng = np.random.default_rng(0)
    for position in range(200):
        row = rng.normal(size=500).astype(np.float32)
        nudged = row + rng.normal(size=500).astype(np.float32) * 1e-6
        plan = a_plan(position=position, temperature=0.8)
        assert choose(row, plan) == choose(nudged, plan)


def test_any_64_bit_seed_gives_finite_noise():
    tokens = np.arange(2048, dtype=np.uint64)
    for seed in (0, -1, 2**64 - 1, 2**63, 12345):
        assert np.isfinite(gumbel(seed, 0, tokens)).all()
