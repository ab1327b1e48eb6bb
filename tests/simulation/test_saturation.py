"""What a scaler goes by, in virtual time: saturation beside the load that is offered, predicted TTFT beside the true one."""

from functools import cache
from statistics import mean

import pytest

from hortator.scheduler.core.model import GroupSpec, Phase, SchedulerSettings
from hortator.sim.cluster import GroupPlan, VirtualCluster
from hortator.sim.load import default_engine_seconds
from hortator.sim.results import Recorder, summarize
from hortator.sim.workload import LENGTHS, generate, poisson_arrivals
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_config import GroupConfig

NUM_GROUPS, DP_SIZE, BUDGET = 2, 16, 8192
WARMUP_S, DURATION_S = 60.0, 120.0


def _plan(group_id):
    cost = PassCost(dp_size=DP_SIZE)
    common = {
        "dp_size": DP_SIZE,
        "chunk_budget_tokens": BUDGET,
        "kv_blocks_total": cost.kv_blocks_total(64),
        "max_batch_size": 256,
    }
    spec = GroupSpec(group_id=group_id, phase=Phase.PREFILL, **common)
    return GroupPlan(spec=spec, config=GroupConfig(**common, prefix_cache=False), cost=cost)


def _requests(load):
    lengths = LENGTHS["conversation"]
    seconds = default_engine_seconds(preset="deepseek-h800", dp_size=DP_SIZE)
    known = generate(lengths=lengths, arrivals=poisson_arrivals(rate_per_s=100, duration_s=60), seed=0)
    rate = load * NUM_GROUPS * len(known) / sum(seconds(one.num_prompt_tokens) for one in known)
    arrivals = poisson_arrivals(rate_per_s=rate, duration_s=DURATION_S)
    return generate(lengths=lengths, arrivals=arrivals, seed=1)


@cache
def _figures(load):
    """Mean saturation and mean predicted TTFT once all is learned, and the true mean TTFT."""
    seen = []

    def look(now, _event, _commands):
        if WARMUP_S + len(seen) <= now < DURATION_S:
            snapshot = cluster.machine.snapshot(now)
            seen.append((snapshot.saturation[Phase.PREFILL], snapshot.predicted_ttft_s))

    recorder = Recorder(warmup_s=WARMUP_S)
    settings = SchedulerSettings(decode_reservation=False)
    plans = [_plan(f"p{i}") for i in range(NUM_GROUPS)]
    cluster = VirtualCluster(plans, settings, recorder, on_event=look)
    cluster.run(_requests(load))
    ttft_s = summarize(recorder, num_groups=NUM_GROUPS)["ttft_s"]["mean"]
    return mean(one for one, _ in seen), mean(one for _, one in seen), ttft_s


@pytest.mark.parametrize("load", [0.5, 0.85])
def test_saturation_reads_as_the_load_that_is_offered(load):
    """Within a tenth of it: two groups, half full passes or nearly full ones."""
    assert _figures(load)[0] == pytest.approx(load, rel=0.1)


def test_an_overload_reads_above_one():
    assert _figures(1.2)[0] > 1.1


@pytest.mark.parametrize("load", [0.5, 0.85, 1.2])
def test_the_predicted_ttft_is_about_the_true_one(load):
    """Within a fifth, from idle ranks to a queue that grows."""
    _, predicted_s, true_s = _figures(load)
    assert predicted_s == pytest.approx(true_s, rel=0.2)
