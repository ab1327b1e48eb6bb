"""The paper's table: which clusters, workloads and policies are compared, and at what.

Each `Setup` is simulated at one load (a *point* per policy, chunk budget and seed), and its policies'
capacities under its limits are searched (a *search* per policy, chunk budget and seed). The paper has 64 H800
in two layouts; its constants are not public, so the clusters are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hortator.sim.arrivals import POISSON, RECORDED, ArrivalMode, Arrivals
from hortator.sim.study.capacity import Grid, Limits
from hortator.sim.study.plan import BASELINE, COMMON_BUDGET, RIVAL
from hortator.sim.study.points import Workload

PAPER_POLICIES = (BASELINE, "fixed-batch", "staggered", "staggered-plus")
ENGINE_WAITS = "engine-waits"
ENGINES = {"": "", ENGINE_WAITS: "context-wait-iters=50,batching-wait-iters=10"}
"""What follows a policy's `+`: how its engines are disturbed. TensorRT-LLM's own defaults of its waits."""
AGGREGATED_POLICIES = (
    "immediate-weighted-requests",
    *PAPER_POLICIES,
    f"{BASELINE}+{ENGINE_WAITS}",
)
DAY_S = 600.0
"""A day, compressed: long against the 20 to 30 s that a request of a thousand tokens decodes."""
POINT = "point"
SEARCH = "search"
FIVE_SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How a setup's capacities are found; arrivals hold still (Poisson), or are the trace's own."""

    limits: Limits
    grid: Grid
    run_s: float
    """Virtual seconds per run."""
    seeds: tuple[int, ...] = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A cluster, a workload, and what is asked of them."""

    name: str
    about: str
    cluster: str
    """File name in benchmarks/sim/clusters."""
    workload: Workload
    policies: tuple[str, ...] = PAPER_POLICIES
    """Names of the policy registry; `+` and one of ENGINES may follow."""
    budgets: tuple[int, ...] = (COMMON_BUDGET,)
    seeds: tuple[int, ...] = FIVE_SEEDS
    """Of the points; a recorded trace has nothing to draw."""
    load: float = 0.0
    """Of the points; 0: none."""
    run_s: float = 1200.0
    """Virtual seconds per point."""
    prefill_only: bool = False
    search: Search | None = None


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Job:
    """One piece of work: a point or a search."""

    setup: str
    kind: str
    policy: str
    chunk_budget_tokens: int
    seed: int

    def key(self) -> str:
        """As one text, the same in every process."""
        return f"{self.setup}/{self.kind}/{self.policy}/{self.chunk_budget_tokens}/{self.seed}"


def jobs(setup: Setup) -> Iterator[Job]:
    """All pieces of a setup."""
    kinds = [(POINT, setup.seeds)] if setup.load else []
    kinds += [(SEARCH, setup.search.seeds)] if setup.search else []
    for kind, seeds in kinds:
        for policy in setup.policies:
            for budget in setup.budgets:
                for seed in seeds:
                    yield Job(
                        setup=setup.name, kind=kind, policy=policy, chunk_budget_tokens=budget, seed=seed
                    )


_DIURNAL = Arrivals(mode=ArrivalMode.DIURNAL, peak_to_mean=1.6, period_s=DAY_S)

SETUPS = (
    Setup(
        name="a",
        about="Aggregated, 4 x EP16, short prompts (at most 64 tokens in, 1,024 out), two days of 10 minutes "
        "each; the capacities at an even rate",
        cluster="aggregated-4xEP16.yaml",
        workload=Workload(name="short-prompts", lengths="short-prompt-uniform", arrivals=_DIURNAL),
        policies=AGGREGATED_POLICIES,
        load=0.0085,
        search=Search(
            limits=Limits(ttft_p99_s=1.0, itl_p99_s=0.1),
            grid=Grid(low=0.010, high=0.020, num_loads=32),
            run_s=240.0,
        ),
    ),
    Setup(
        name="b-conversation",
        about="PrefillDecode, 2 x EP16 + EP32, conversation lengths",
        cluster="h800-64.yaml",
        workload=Workload(name="conversation", lengths="conversation", arrivals=POISSON),
        load=0.7,
        search=Search(
            limits=Limits(ttft_p99_s=2.0, itl_p99_s=0.05),
            grid=Grid(low=0.4, high=1.0, num_loads=32),
            run_s=240.0,
        ),
    ),
    Setup(
        name="b-code",
        about="PrefillDecode, 2 x EP16 + EP32, Azure code 2023 as recorded",
        cluster="h800-64.yaml",
        workload=Workload(name="code", trace="azure2023_code.csv", arrivals=RECORDED),
        seeds=(0,),
        load=0.5,
        search=Search(
            limits=Limits(ttft_p99_s=5.0, itl_p99_s=0.05),
            grid=Grid(low=0.2, high=0.9, num_loads=32),
            run_s=600.0,
            seeds=(0,),
        ),
    ),
    Setup(
        name="b-long-context",
        about="PrefillDecode, 2 x EP16 + EP32, Mooncake conversations as recorded (10,000 tokens on average)",
        cluster="h800-64.yaml",
        workload=Workload(name="long-context", trace="mooncake_conversation.jsonl", arrivals=RECORDED),
        seeds=(0,),
        load=0.4,
        run_s=600.0,
        search=Search(
            limits=Limits(ttft_p99_s=60.0, itl_p99_s=0.05),
            grid=Grid(low=0.1, high=0.7, num_loads=15),
            run_s=3600.0,  # p99 of five minutes is that of five prompts
            seeds=(0,),
        ),
    ),
    Setup(
        name="ttft-limit",
        about="four prefill groups of EP16 alone, conversation lengths",
        cluster="prefill-4xEP16.yaml",
        workload=Workload(name="conversation", lengths="conversation", arrivals=POISSON),
        policies=(BASELINE, RIVAL, "staggered", "staggered-plus"),
        prefill_only=True,
        search=Search(limits=Limits(ttft_p99_s=1.5), grid=Grid(low=0.4, high=1.0, num_loads=32), run_s=240.0),
    ),
    Setup(
        name="day",
        about="four prefill groups of EP16 alone, conversation lengths, one chunk budget through a day of "
        "10 minutes that peaks at 1.5 times its mean",
        cluster="prefill-4xEP16.yaml",
        workload=Workload(
            name="conversation-day",
            lengths="conversation",
            arrivals=Arrivals(mode=ArrivalMode.DIURNAL, peak_to_mean=1.5, period_s=DAY_S),
        ),
        policies=(BASELINE, RIVAL, "staggered", "staggered-plus"),
        budgets=(2048, 4096, COMMON_BUDGET),
        seeds=(0,),
        load=0.6,
        run_s=DAY_S,
        prefill_only=True,
    ),
)
