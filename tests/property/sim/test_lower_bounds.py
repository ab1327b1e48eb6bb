"""No pass does more work than the bounds say, and no policy is faster than the lower bound."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hortator.scheduler.core.model import GroupSpec, Phase, SchedulerSettings
from hortator.sim.cluster import GroupPlan, VirtualCluster
from hortator.sim.lower_bound import lower_bound
from hortator.sim.pass_bounds import best_work, frontier
from hortator.sim.results import Recorder, summarize
from hortator.sim.workload import TraceRequest
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_config import GroupConfig

POLICIES = ("immediate-round-robin", "immediate-least-delay", "staggered", "staggered-plus")
ROUNDING = 1 - 1e-9
MAX_PREFIX = 20_000
EXAMPLES = settings().max_examples

costs = st.builds(
    lambda preset, dp_size, tp, overlap: PassCost(
        preset, dp_size=dp_size, ep_size=dp_size * tp, two_batch_overlap=overlap
    ),
    st.sampled_from(["deepseek-h800", "rtp-h800", "sglang-h100"]),
    st.sampled_from([1, 2, 4, 16]),
    st.sampled_from([1, 2]),
    st.sampled_from([None, True, False]),
)


@st.composite
def passes(draw, dp_size, budget):
    """Tokens and pairs of each rank: every rank one chunk on top of a prefix, some of them idle."""
    ns = draw(st.lists(st.integers(0, budget), min_size=dp_size, max_size=dp_size).filter(any))
    pairs = [float(n * (draw(st.integers(0, MAX_PREFIX - n)) + 0.5 * n)) for n in ns]
    return ns, pairs


@given(data=st.data(), cost=costs, budget=st.sampled_from([64, 1024, 8192]))
def test_no_pass_is_shorter_than_the_floor_of_its_totals_and_its_fullest_rank(data, cost, budget):
    ns, pairs = data.draw(passes(cost.dp_size, budget))
    seconds = cost.prefill_s(ns, pairs)
    for n, s in zip(ns, pairs, strict=True):
        assert cost.prefill_floor_s(sum(ns), sum(pairs), rank_n=n, rank_pairs=s) * ROUNDING <= seconds
    even = [sum(ns) / cost.dp_size] * cost.dp_size, [sum(pairs) / cost.dp_size] * cost.dp_size
    assert cost.prefill_floor_s(sum(ns), sum(pairs)) == pytest.approx(cost.prefill_s(*even))


@given(cost=costs, n=st.integers(1, 8192), mix=st.floats(0, MAX_PREFIX), growth=st.floats(1, 100))
def test_a_pass_of_the_same_mix_that_is_larger_takes_less_for_a_token(cost, n, mix, growth):
    small = cost.prefill_floor_s(n, n * mix, rank_n=0.5 * n, rank_pairs=n)
    large = cost.prefill_floor_s(growth * n, growth * n * mix, rank_n=0.5 * growth * n, rank_pairs=growth * n)
    assert large * ROUNDING <= growth * small


@given(
    data=st.data(),
    cost=costs,
    budget=st.sampled_from([64, 1024, 8192]),
    lengths=st.lists(st.integers(1, MAX_PREFIX), min_size=1, max_size=5),
)
def test_no_pass_does_more_work_than_its_seconds(data, cost, budget, lengths):
    work = best_work(cost, budget=budget, lengths=np.array([*lengths, MAX_PREFIX]))
    ns, pairs = data.draw(passes(cost.dp_size, budget))
    assert work.per_token * sum(ns) + work.per_pair * sum(pairs) <= cost.prefill_s(ns, pairs)


@settings(max_examples=EXAMPLES // 3)
@given(data=st.data(), cost=costs, budget=st.sampled_from([64, 1024]))
def test_no_pass_is_better_than_the_frontier(data, cost, budget):
    """Of all passes and of those with a prompt of a given length on the first rank."""
    work = best_work(cost, budget=budget, lengths=np.array([budget, MAX_PREFIX]))
    ns, pairs = data.draw(passes(cost.dp_size, budget))
    own = data.draw(st.integers(1, budget))
    for least in (0, own):
        if least:
            ns[0], pairs[0] = least, 0.5 * least**2
        seconds = cost.prefill_s(ns, pairs)
        per_work = seconds / (work.per_token * sum(ns) + work.per_pair * sum(pairs))
        found = frontier(
            cost,
            work,
            budget=budget,
            longest=MAX_PREFIX,
            rank_n=least,
            rank_n_at_most=least + 2 * bool(least),
        )
        reached = found.seconds * ROUNDING <= seconds
        assert reached.any()
        assert found.per_work[reached].min() * ROUNDING <= per_work


@cache
def _plans(num_groups, budget):
    cost = PassCost(dp_size=2, ep_size=16)
    return [
        GroupPlan(
            spec=GroupSpec(
                group_id=f"prefill-{index}",
                phase=Phase.PREFILL,
                dp_size=2,
                chunk_budget_tokens=budget,
                kv_blocks_total=4000,
            ),
            config=GroupConfig(
                dp_size=2, chunk_budget_tokens=budget, kv_blocks_total=4000, max_batch_size=256
            ),
            cost=cost,
        )
        for index in range(num_groups)
    ]


def _requests(rows):
    arrivals = np.cumsum([gap for gap, _ in rows]).tolist()
    return [
        TraceRequest(arrived_at=at, num_prompt_tokens=tokens, num_output_tokens=1)
        for at, (_, tokens) in zip(arrivals, rows, strict=True)
    ]


gaps = st.sampled_from([0.0, 0.0, 0.001, 0.03, 0.2, 3.0])
workloads = (
    st.lists(st.integers(1, 9000), min_size=1, max_size=5)
    .flatmap(lambda lengths: st.lists(st.tuples(gaps, st.sampled_from(lengths)), min_size=1, max_size=120))
    .map(_requests)
)


@settings(max_examples=EXAMPLES // 3)
@given(
    requests=workloads,
    num_groups=st.integers(1, 3),
    budget=st.sampled_from([256, 1024, 8192]),
    warmup_s=st.sampled_from([0.0, 0.1]),
    policy=st.sampled_from(POLICIES),
)
def test_no_policy_has_a_mean_ttft_below_the_bound(requests, num_groups, budget, warmup_s, policy):
    plans = _plans(num_groups, budget)
    recorder = Recorder(warmup_s=warmup_s)
    VirtualCluster(plans, SchedulerSettings(policy=policy, decode_reservation=False), recorder).run(requests)
    figures = summarize(recorder, num_groups=num_groups)
    assert figures["completed"] == figures["requests"]
    bound = lower_bound(
        requests,
        cost=plans[0].cost,
        num_groups=num_groups,
        chunk_budget_tokens=budget,
        warmup_s=warmup_s,
    )
    assert bound.mean_s * ROUNDING <= figures["ttft_s"]["mean"]
    assert bound.mean_s > 0 or not figures["requests"]


@settings(max_examples=EXAMPLES // 20)
@given(requests=workloads, budget=st.sampled_from([256, 8192]))
def test_more_groups_never_raise_the_bound(requests, budget):
    cost = _plans(1, budget)[0].cost
    found = [
        lower_bound(requests, cost=cost, num_groups=n, chunk_budget_tokens=budget).mean_s for n in (1, 2, 5)
    ]
    assert all(more * ROUNDING <= fewer for fewer, more in pairwise(found))
