"""What each policy decides on a small fixed workload, as a digest: a change of behaviour shows itself here."""

import random

from hortator.scheduler.core.model import GroupSpec, Phase, SchedulerSettings
from hortator.scheduler.core.policies.registry import POLICY_NAMES
from hortator.scheduler.digest import CommandDigest
from hortator.sim.cluster import GroupPlan, VirtualCluster
from hortator.sim.results import Recorder
from hortator.sim.workload import TraceRequest
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_model import GroupConfig

APART = [(Phase.PREFILL, 16), (Phase.PREFILL, 16), (Phase.DECODE, 32)]
TOGETHER = [(Phase.AGGREGATED, 8), (Phase.AGGREGATED, 8)]


def digest_of(
    policy: str,
    groups: list[tuple[Phase, int]] = APART,
    *,
    rate: float = 120.0,
    duration_s: float = 20.0,
    median_prompt: float = 6.6,
) -> str:
    """Groups as (phase, ranks), Poisson arrivals of mixed lengths (log of the median), seed 0."""
    plans = []
    for index, (phase, dp_size) in enumerate(groups):
        spec = GroupSpec(
            group_id=f"g{index}", phase=phase, dp_size=dp_size, chunk_budget_tokens=8192, kv_blocks_total=2000
        )
        config = GroupConfig(dp_size=dp_size, kv_blocks_total=2000)
        plans.append(GroupPlan(spec=spec, config=config, cost=PassCost(dp_size=dp_size)))
    rng = random.Random(0)
    arrived_at = 0.0
    requests = []
    while (arrived_at := arrived_at + rng.expovariate(rate)) < duration_s:
        prompt = min(20_000, int(rng.lognormvariate(median_prompt, 1.0)) + 1)
        requests.append(
            TraceRequest(
                arrived_at=arrived_at, num_prompt_tokens=prompt, num_output_tokens=rng.randrange(1, 300)
            )
        )
    digest = CommandDigest()
    recorder = Recorder()
    cluster = VirtualCluster(
        plans,
        SchedulerSettings(policy=policy),
        recorder,
        on_event=lambda now, _event, commands: digest.update(now, commands),
    )
    cluster.run(requests)
    assert recorder.num_live == 0
    return digest.hexdigest()


def test_the_same_requests_lead_to_the_same_decisions(golden):
    """Same events, same times, same commands, on every machine; and per policy different ones."""
    digests = {policy: digest_of(policy) for policy in POLICY_NAMES}
    assert len(set(digests.values())) == len(POLICY_NAMES)
    golden("decisions.txt", "".join(f"{policy} {digest}\n" for policy, digest in digests.items()))


def test_prefill_and_decode_in_one_pass_lead_to_the_same_decisions(golden):
    """Two Aggregated groups of 8 ranks with short prompts; `least-delay` is also where critical ones go."""
    digests = {
        policy: digest_of(policy, TOGETHER, rate=60.0, duration_s=8.0, median_prompt=3.2)
        for policy in ("immediate-least-delay", "fixed-batch", "staggered")
    }
    golden("decisions-aggregated.txt", "".join(f"{policy} {digest}\n" for policy, digest in digests.items()))
