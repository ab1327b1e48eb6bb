"""Who asks for more than its share."""

import pytest

from hortator.scheduler.core.tenant_rates import TenantRates

RATE = 1000.0  # tokens per second of the cluster


def test_a_share_is_by_weight_among_those_who_ask():
    """Over ten seconds: a and b may ask for 500 tokens/s each; with weight 3 b has 750 of 1000."""
    rates = TenantRates({})
    rates.observe("a", 10_000, 1.0)
    rates.observe("b", 2_500, 1.0)
    assert rates.num_shares("a", 9.0, tokens_per_s=RATE) == 2.0
    assert rates.num_shares("b", 9.0, tokens_per_s=RATE) == 0.5
    rates = TenantRates({"b": 3.0})
    rates.observe("a", 2_500, 1.0)
    rates.observe("b", 7_500, 1.0)
    assert rates.num_shares("a", 9.0, tokens_per_s=RATE) == 1.0
    assert rates.num_shares("b", 9.0, tokens_per_s=RATE) == 1.0


def test_who_is_alone_never_asks_for_too_much():
    """And without workers there is no share to exceed."""
    rates = TenantRates({})
    rates.observe("a", 1_000_000, 1.0)
    assert rates.num_shares("a", 2.0, tokens_per_s=RATE) == 0.0
    rates.observe("b", 1, 2.0)
    assert rates.num_shares("a", 2.0, tokens_per_s=RATE) == 200.0
    assert rates.num_shares("a", 2.0, tokens_per_s=0.0) == 0.0


def test_what_was_asked_fades_over_ten_seconds():
    """10 000 tokens in the first span: all at its end, a half in the middle of the next, none after it."""
    rates = TenantRates({})
    rates.observe("a", 10_000, 5.0)
    rates.observe("b", 1, 5.0)
    rates.observe("b", 1, 12.0)
    assert rates.num_shares("a", 15.0, tokens_per_s=RATE) == pytest.approx(1.0)
    rates.observe("b", 1, 21.0)
    assert rates.num_shares("a", 21.0, tokens_per_s=RATE) == 0.0


def test_tenants_that_have_gone_leave_their_share_to_the_others():
    """b asks no more: after two spans a is alone."""
    rates = TenantRates({})
    rates.observe("b", 1, 1.0)
    for at in (1.0, 11.0, 21.0):
        rates.observe("a", 10_000, at)
    assert rates.num_shares("a", 21.0, tokens_per_s=RATE) == 0.0
    assert rates.num_tenants == 1


def test_who_floods_asks_for_more_than_one_and_a_half_shares():
    """Of two equals: 750 tokens/s of 1000 is not too much, a little more is."""
    rates = TenantRates({})
    rates.observe("b", 1, 1.0)
    rates.observe("a", 7_500, 1.0)
    assert not rates.asks_too_much("a", 9.0, tokens_per_s=RATE)
    rates.observe("a", 1, 1.0)
    assert rates.asks_too_much("a", 9.0, tokens_per_s=RATE)
    assert (rates.share("a"), rates.share("b")) == (0.5, 0.5)
