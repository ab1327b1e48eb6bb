"""What prefill costs the decodes beside it."""

import pytest

from hortator.scheduler.core.mixed_passes import PRIOR_EXTRA_S, MixedPasses


def test_the_extra_time_is_the_difference_of_passes_with_and_without_prefill():
    passes = MixedPasses()
    for _ in range(5):
        passes.observe(0, 0.040)
        passes.observe(64, 0.055)
    assert passes.extra_s == pytest.approx(0.015)


@pytest.mark.parametrize("tokens", [0, 64])
def test_until_both_kinds_were_seen_it_is_the_first_guess(tokens):
    passes = MixedPasses()
    passes.observe(tokens, 1.0)
    assert passes.extra_s == PRIOR_EXTRA_S


def test_an_engine_whose_passes_with_prefill_are_no_longer_has_none():
    passes = MixedPasses()
    passes.observe(0, 0.040)
    passes.observe(64, 0.030)
    assert passes.extra_s == 0.0


def test_it_follows_a_change_within_some_tens_of_passes():
    """Each pass takes off a tenth of what is left: after 40 passes 1.5 % of 20 ms."""
    passes = MixedPasses()
    passes.observe(0, 0.040)
    passes.observe(64, 0.060)
    for _ in range(40):
        passes.observe(64, 0.080)
    assert passes.extra_s == pytest.approx(0.040, abs=0.0004)
