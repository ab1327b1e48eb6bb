"""The whole cluster in virtual time: what the policies are for, and that every one of them finishes its work."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from hortator.scheduler.core.commands import Probe
from hortator.scheduler.core.model import GroupSpec, Phase, SchedulerSettings
from hortator.scheduler.core.policies.registry import POLICY_NAMES
from hortator.sim.cluster import GroupPlan, VirtualCluster
from hortator.sim.load import default_engine_seconds
from hortator.sim.results import Recorder, summarize
from hortator.sim.workload import LENGTHS, TraceRequest, generate, poisson_arrivals
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_config import GroupConfig

NUM_GROUPS = 4
DP_SIZE = 16
WARMUP_S = 20.0


def _plan(group_id, phase, *, dp_size=DP_SIZE, budget=8192, chunked=True, prefix_cache=False, batch=256):
    cost = PassCost(dp_size=dp_size)
    kv_blocks = cost.kv_blocks_total(64)
    return GroupPlan(
        spec=GroupSpec(
            group_id=group_id,
            phase=phase,
            dp_size=dp_size,
            chunk_budget_tokens=budget,
            chunked_prefill=chunked,
            kv_blocks_total=kv_blocks,
            max_batch_size=batch,
        ),
        config=GroupConfig(
            dp_size=dp_size,
            chunk_budget_tokens=budget,
            kv_blocks_total=kv_blocks,
            max_batch_size=batch,
            chunked_prefill=chunked,
            prefix_cache=prefix_cache,
        ),
        cost=cost,
    )


@cache
def _trace(load: float, *, seed: int = 0, duration_s: float = 140.0) -> tuple[TraceRequest, ...]:
    """Conversation lengths at a share of what four prefill groups can do."""
    seconds = default_engine_seconds(preset="deepseek-h800", dp_size=DP_SIZE)
    sample = generate(
        lengths=LENGTHS["conversation"], arrivals=poisson_arrivals(rate_per_s=100, duration_s=60), seed=seed
    )
    rate = load * NUM_GROUPS * len(sample) / sum(seconds(r.num_prompt_tokens) for r in sample)
    return tuple(
        generate(
            lengths=LENGTHS["conversation"],
            arrivals=poisson_arrivals(rate_per_s=rate, duration_s=duration_s),
            seed=seed,
        )
    )


@cache
def _prefill_figures(policy: str, load: float):
    recorder = Recorder(warmup_s=WARMUP_S)
    settings = SchedulerSettings(policy=policy, decode_reservation=False)
    plans = [_plan(f"p{i}", Phase.PREFILL) for i in range(NUM_GROUPS)]
    VirtualCluster(plans, settings, recorder).run(_trace(load))
    return summarize(recorder, num_groups=NUM_GROUPS)


@pytest.mark.parametrize("policy", ["staggered", "staggered-plus"])
def test_staggered_batches_beat_immediate_dispatch_by_a_quarter_of_mean_ttft(policy):
    """At load 0.7: mean TTFT at most 0.75 of immediate-least-tokens, p99 at most 1.05 of it."""
    immediate, staggered = (
        _prefill_figures(name, 0.7)["ttft_s"] for name in ("immediate-least-tokens", policy)
    )
    assert staggered["mean"] <= 0.75 * immediate["mean"]
    assert staggered["p99"] <= 1.05 * immediate["p99"]


@pytest.mark.parametrize(("policy", "share"), [("staggered", 1.10), ("staggered-plus", 1.03)])
def test_at_low_load_holding_costs_next_to_nothing(policy, share):
    """At load 0.1, against the immediate policy that predicts delay; the window of `min_fill` costs some 8 %."""
    mean_s = _prefill_figures(policy, 0.1)["ttft_s"]["mean"]
    assert mean_s <= share * _prefill_figures("immediate-least-delay", 0.1)["ttft_s"]["mean"]


def _complete(plans, settings, trace):
    recorder = Recorder()
    cluster = VirtualCluster(plans, settings, recorder)
    cluster.run(trace)
    cluster.machine.check_invariants()
    assert [r for r in recorder.records if r.rejected] == []
    assert recorder.num_live == 0
    assert cluster.machine.requests == {}
    assert all(r.finished_at >= r.first_token_at > r.arrived_at for r in recorder.records)
    return recorder


def _short_trace(num_requests, *, seed=3):
    return list(_trace(0.5, seed=seed, duration_s=10.0))[:num_requests]


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_request_is_prefilled_and_decoded(policy):
    """PrefillDecode with decode reservations: each request ends with its last token."""
    plans = [
        _plan("p0", Phase.PREFILL),
        _plan("p1", Phase.PREFILL),
        _plan("d0", Phase.DECODE),
    ]
    trace = _short_trace(300)
    recorder = _complete(plans, SchedulerSettings(policy=policy), trace)
    assert sum(1 for r in recorder.records if r.second_token_at == r.second_token_at) > 0.8 * len(trace)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_request_is_served_where_it_was_placed(policy):
    """Aggregated: prefill and decode in the same passes."""
    plans = [_plan(f"a{i}", Phase.AGGREGATED, budget=2048) for i in range(2)]
    _complete(plans, SchedulerSettings(policy=policy), _short_trace(200))


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_without_chunked_prefill_every_prompt_within_the_budget_is_served(policy):
    """Indivisible prompts."""
    plans = [_plan(f"p{i}", Phase.PREFILL, chunked=False) for i in range(2)]
    trace = [r for r in _short_trace(300) if r.num_prompt_tokens <= 8192]
    _complete(plans, SchedulerSettings(policy=policy, decode_reservation=False), trace)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_shared_prefixes_are_found_and_computed_once(policy):
    """Each request has one of three heads of 1024 tokens: fewer tokens run than arrive."""
    trace = [
        TraceRequest(
            arrived_at=0.05 * i,
            num_prompt_tokens=1400,
            num_output_tokens=1,
            prefix_block_ids=(
                *range(100 * (i % 3), 100 * (i % 3) + 16),
                *range(1000 * (i + 1), 1000 * (i + 1) + 6),
            ),
            prefix_block_tokens=64,
        )
        for i in range(200)
    ]
    plans = [_plan(f"p{i}", Phase.PREFILL, prefix_cache=True) for i in range(2)]
    recorder = _complete(plans, SchedulerSettings(policy=policy, decode_reservation=False), trace)
    assert recorder.totals.prefill_tokens < sum(r.num_prompt_tokens for r in trace)


@pytest.mark.parametrize("policy", ["immediate-least-delay", "staggered-plus"])
def test_a_pass_far_longer_than_predicted_is_waited_for(policy):
    """8,000 new tokens behind a cached head of 120,000 take four times what 8,000 take: the group is probed."""
    head = tuple(range(120_000 // 64))
    short = [TraceRequest(arrived_at=0.2 * i, num_prompt_tokens=300, num_output_tokens=1) for i in range(700)]
    long = [
        TraceRequest(
            arrived_at=at,
            num_prompt_tokens=tokens,
            num_output_tokens=1,
            prefix_block_ids=(*head, *range(10_000, 10_000 + -(-tokens // 64) - len(head))),
            prefix_block_tokens=64,
        )
        for at, tokens in ((0.05, 120_000), (135.05, 128_000))
    ]
    events = []
    cluster = VirtualCluster(
        [_plan("p0", Phase.PREFILL, prefix_cache=True)],
        SchedulerSettings(policy=policy, decode_reservation=False),
        recorder := Recorder(),
        on_event=lambda _now, _event, commands: events.extend(commands),
    )
    cluster.run(sorted([*short, *long], key=lambda request: request.arrived_at))
    assert any(isinstance(command, Probe) for command in events)
    assert recorder.num_live == 0
    assert not any(record.rejected for record in recorder.records)


@pytest.mark.parametrize("policy", ["immediate-power-of-two", "staggered", "staggered-plus"])
def test_the_same_seed_gives_the_same_figures(policy):
    """To the last digit."""
    runs = []
    for _ in range(2):
        recorder = Recorder()
        plans = [_plan(f"p{i}", Phase.PREFILL) for i in range(2)]
        settings = SchedulerSettings(policy=policy, decode_reservation=False)
        VirtualCluster(plans, settings, recorder).run(_trace(0.4, seed=7, duration_s=15.0))
        runs.append(summarize(recorder, num_groups=2))
    assert runs[0] == runs[1]


@cache
def _aggregated_figures(policy: str, rate: float):
    """Two groups of 16 ranks with 16 slots each; short prompts, 100 tokens out."""
    plans = [_plan(f"a{i}", Phase.AGGREGATED, batch=16) for i in range(2)]
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(1.0 / rate, size=int(40 * rate)))
    requests = [
        TraceRequest(arrived_at=float(at), num_prompt_tokens=int(prompt), num_output_tokens=100)
        for at, prompt in zip(times, rng.integers(1, 65, size=len(times)), strict=True)
    ]
    recorder = Recorder(warmup_s=10.0)
    VirtualCluster(plans, SchedulerSettings(policy=policy), recorder).run(requests)
    return summarize(recorder, num_groups=2)


@pytest.mark.parametrize("policy", ["staggered", "staggered-plus"])
def test_admitting_newcomers_together_serves_a_rate_that_fills_the_slots_of_immediate_dispatch(policy):
    """101 requests/s: 512 slots / (100 tokens x 55 ms) = 93 with prefill in every pass, 113 with 45 ms a pass."""
    immediate, staggered = (_aggregated_figures(name, 101.0) for name in ("immediate-least-requests", policy))
    assert staggered["stable"]
    assert staggered["ttft_s"]["mean"] < 0.3 * immediate["ttft_s"]["mean"]  # its queue for slots grows
    assert staggered["ttft_s"]["p99"] < 0.3 * immediate["ttft_s"]["p99"]
    assert staggered["itl_s"]["mean"] < 0.9 * immediate["itl_s"]["mean"]


def test_every_rank_gets_its_share_under_every_policy_when_prefill_is_done_at_once():
    """50 requests/s need 250 of 512 slots: nobody waits for one."""
    for policy in POLICY_NAMES:
        figures = _aggregated_figures(policy, 50.0)
        assert figures["stable"], policy
        assert figures["ttft_s"]["p99"] < 0.4, policy
