"""The lower bound of the mean TTFT: cases small enough for a hand, and what it refuses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hortator.sim.lower_bound import lower_bound, srpt_flow_times
from hortator.sim.pass_bounds import best_work, solo_times
from hortator.sim.workload import TraceRequest
from hortator.worker.engines.simulated.cost import PassCost

COST = PassCost(dp_size=4, ep_size=16)
BUDGET = 4096


def bound(*rows, num_groups=1, warmup_s=0.0, budget=BUDGET):
    """Rows of (arrival, prompt tokens)."""
    requests = [
        TraceRequest(arrived_at=at, num_prompt_tokens=tokens, num_output_tokens=1) for at, tokens in rows
    ]
    return lower_bound(
        requests, cost=COST, num_groups=num_groups, chunk_budget_tokens=budget, warmup_s=warmup_s
    )


def alone(tokens, prefix=0):
    return COST.prefill_s([tokens], [tokens * (prefix + 0.5 * tokens)])


class TestShortestRemainingFirst:
    @pytest.mark.parametrize(
        ("arrivals", "service", "flow"),
        [
            pytest.param([5.0], [2.0], [2.0], id="one"),
            pytest.param([0.0, 0.0], [3.0, 1.0], [4.0, 1.0], id="two-at-one-instant"),
            pytest.param([0.0, 10.0], [3.0, 1.0], [3.0, 1.0], id="an-idle-gap"),
            pytest.param([0.0, 1.0], [4.0, 1.0], [5.0, 1.0], id="a-shorter-one-preempts"),
            pytest.param([0.0, 3.0], [4.0, 2.0], [4.0, 3.0], id="one-longer-than-what-is-left-waits"),
            pytest.param([0.0, 1.0, 2.0], [9.0, 5.0, 1.0], [15.0, 6.0, 1.0], id="nested"),
            pytest.param([0.0, 2.0], [2.0, 1.0], [2.0, 1.0], id="an-end-at-an-arrival"),
        ],
    )
    def test_flow_times(self, arrivals, service, flow):
        assert srpt_flow_times(np.array(arrivals), np.array(service)).tolist() == flow


class TestSolo:
    def test_one_request_cannot_be_faster_than_its_pass(self):
        found = bound((7.0, 1000))
        assert found.mean_solo_s == pytest.approx(alone(1000))
        assert found.mean_s == pytest.approx(alone(1000))
        assert found.mean_relaxed_s < alone(1000)

    def test_requests_far_apart_do_not_touch_each_other(self):
        found = bound((0.0, 1000), (50.0, 3000), (100.0, 200))
        assert found.mean_s == pytest.approx((alone(1000) + alone(3000) + alone(200)) / 3)

    def test_a_prompt_over_the_budget_takes_the_best_of_all_its_cuts(self):
        """A budget of 64 makes cells of one token: the minimum is exact."""
        budget, tokens = 64, 150
        best = [0.0]
        for end in range(1, tokens + 1):
            best.append(
                min(best[start] + alone(end - start, start) for start in range(max(0, end - budget), end))
            )
        found = solo_times(COST, budget=budget, lengths=np.array([30, tokens]))
        assert found.least_s.tolist() == pytest.approx([alone(30), best[tokens]])

    @pytest.mark.parametrize("tokens", [4097, 9000, 30_000])
    def test_cells_of_cuts_cost_little(self, tokens):
        """Cut at the budget, as engines do, is at most this much longer than the bound."""
        cuts = [*range(0, tokens, BUDGET), tokens]
        greedy = sum(alone(end - start, start) for start, end in pairwise(cuts))
        found = float(solo_times(COST, budget=BUDGET, lengths=np.array([tokens])).least_s[0])
        assert 0.93 * greedy < found <= greedy * (1 + 1e-9)


class TestRelaxed:
    def test_the_best_rate_is_that_of_full_passes(self):
        """All prompts alike: full passes of them do exactly a second's work per second, to a cell."""
        lengths = np.array([2048] * 10)
        work = best_work(COST, budget=BUDGET, lengths=lengths)
        full = COST.prefill_s([BUDGET] * 4, [1024.0 * BUDGET] * 4)
        assert float(work.of(2048)) * 8 == pytest.approx(full, rel=2e-3)
        assert float(work.of(2048)) * 8 <= full

    def test_two_at_one_instant_are_served_one_after_the_other(self):
        work = best_work(COST, budget=BUDGET, lengths=np.array([500, 3000]))
        short, long = work.of(np.array([500, 3000])).tolist()
        assert bound((1.0, 3000), (1.0, 500)).mean_relaxed_s == pytest.approx((2 * short + long) / 2)

    def test_a_backlog_is_bounded_by_what_groups_can_do(self):
        rows = [(0.0, 2048)] * 800
        one, two = bound(*rows), bound(*rows, num_groups=2)
        full = COST.prefill_s([BUDGET] * 4, [1024.0 * BUDGET] * 4)
        assert one.mean_relaxed_s == pytest.approx(0.5 * 100 * full, rel=0.01)
        assert two.mean_relaxed_s == pytest.approx(one.mean_relaxed_s / 2)
        assert one.mean_s == max(one.mean_relaxed_s, one.mean_rent_s) > 10 * one.mean_solo_s


class TestRent:
    def test_passes_must_be_long_enough_for_the_load(self):
        """Equal prompts, evenly spaced, at 80 % of what full passes do: small passes would not keep up."""
        full = COST.prefill_s([BUDGET] * 4, [250.0 * BUDGET] * 4)
        gap = full * 500 / (4 * BUDGET) / 0.8
        found = bound(*((index * gap, 500) for index in range(2000)))
        # The shortest pass that keeps up, of n prompts and their share of the time.
        keeps_up = min(
            seconds
            for n in range(4, 33, 4)
            if (seconds := COST.prefill_s([125 * n] * 4, [125.0 * n * 250] * 4)) <= n * gap
        )
        assert 1.5 * found.mean_solo_s < found.mean_rent_s < keeps_up
        assert found.mean_relaxed_s < found.mean_solo_s

    def test_a_busy_hour_counts_though_the_rest_of_the_day_is_quiet(self):
        """The span is halved: one rent would fit neither part."""
        busy = [(index * 0.012, 500) for index in range(2000)]
        quiet = [(100.0 + 10.0 * index, 500) for index in range(200)]
        both, alone_ = bound(*busy, *quiet), bound(*busy)
        assert both.mean_s * 2200 > alone_.mean_s * 2000 * 0.98 + alone(500) * 200


class TestCounting:
    def test_requests_of_the_warm_up_do_not_count(self):
        assert bound((0.0, 4000), (5.0, 300), warmup_s=5.0) == bound((5.0, 300))

    def test_nothing_counted_is_no_bound(self):
        assert bound((0.0, 4000), warmup_s=5.0).mean_s == 0.0
        assert bound().mean_s == 0.0

    def test_known_prefixes_are_refused(self):
        request = TraceRequest(
            arrived_at=0.0,
            num_prompt_tokens=600,
            num_output_tokens=1,
            prefix_block_ids=(0, 1),
            prefix_block_tokens=512,
        )
        with pytest.raises(ValueError, match="prefix ids"):
            lower_bound([request], cost=COST, num_groups=1, chunk_budget_tokens=BUDGET)
