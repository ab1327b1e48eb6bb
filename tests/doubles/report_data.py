"""What a report is made of, made up: three ranks, whole seconds, round numbers."""

from xml.etree import ElementTree as ET

from hortator.sim.report.data import QUANTILES, TTFT_EDGES, PolicyRun, Report, Role, SweepPoint, Waits
from hortator.sim.timeline import NUM_BINS, ObservedPass, RankTime, Window

GROUPS = {"prefill-0": 3}
BUDGET = 6000


def parsed(markup):
    """The root of what must be well-formed; ours, so it may be trusted."""
    return ET.fromstring(markup)  # noqa: S314


def percentiles(mean, p50, p99):
    return {"mean": mean, "p50": p50, "p90": p99, "p99": p99, "max": p99}


def figures(*, mean=0.5, **changed):
    return {
        "requests": 100,
        "completed": 100,
        "rejected": 0,
        "stable": True,
        "short": False,
        "ttft_s": percentiles(mean, 0.9 * mean, 2.0 * mean),
        "hold_s": percentiles(0.1, 0.1, 0.2),
        "engine_queue_s": percentiles(0.0, 0.0, 0.0),
        "prefill_tokens_per_s": 250_000.0,
        "chunk_utilization": 0.5,
        "balance_ratio": 0.75,
        "bubble_ratio": 0.25,
    } | changed  # fmt: skip


def a_pass(*prefill_tokens, started_at=10.0, duration_s=1.0, group_id="prefill-0", decode_tokens=None):
    return ObservedPass(
        group_id=group_id,
        started_at=started_at,
        duration_s=duration_s,
        prefill_tokens=prefill_tokens,
        decode_tokens=decode_tokens or (0,) * len(prefill_tokens),
    )


def a_run(policy="staggered", *, mean=0.5, passes=None, **changed):
    counts = [0] * (len(TTFT_EDGES) - 1)
    counts[90:93] = [20, 60, 20]
    values = {
        "policy": policy,
        "figures": figures(mean=mean),
        "window": Window(start_s=10.0, end_s=14.0),
        "groups": GROUPS,
        "chunk_budget_tokens": BUDGET,
        "passes": (a_pass(6000, 3000, 0),) if passes is None else passes,
        "rank_time": RankTime(filled_s=60.0, bubble_s=30.0, decode_only_s=0.0, idle_s=10.0),
        "balance": (0.75,) * NUM_BINS,
        "waiting": (3.0,) * NUM_BINS,
        "queued": (0.0,) * NUM_BINS,
        "ttft_quantiles": tuple(0.2 + 0.01 * share for share in QUANTILES),
        "ttft_counts": tuple(counts),
        "waits": Waits(hold_s=0.1, queue_s=0.1, running_s=0.3),
        "slowest_waits": Waits(hold_s=0.5, queue_s=0.1, running_s=0.4),
    }  # fmt: skip
    return PolicyRun(**(values | changed))


def an_unfinished_run(policy="staggered"):
    """No request got its first token, no pass ran."""
    return a_run(
        policy,
        mean=0.0,
        passes=(),
        figures=figures(mean=0.0, completed=0),
        rank_time=RankTime(filled_s=0.0, bubble_s=0.0, decode_only_s=0.0, idle_s=100.0),
        balance=(float("nan"),) * NUM_BINS,
        ttft_quantiles=(),
        ttft_counts=(0,) * (len(TTFT_EDGES) - 1),
        waits=Waits(),
        slowest_waits=Waits(),
    )


def a_report(*runs, loads=(0.7,), **changed):
    runs = runs or (a_run("immediate-least-tokens", mean=1.0), a_run("staggered", mean=0.5))
    found = {run.policy: run.figures for run in runs}
    values = {
        "service": "four-groups",
        "roles": (
            Role(name="Prefill", num_groups=1, ranks_per_group=3, chunk_budget_tokens=BUDGET),
            Role(name="Decode", num_groups=2, ranks_per_group=64, chunk_budget_tokens=0),
        ),
        "prefill_only": True,
        "workload": "poisson, conversation lengths",
        "num_requests": 100,
        "run_s": 1200.0,
        "seed": 7,
        "runs": runs,
        "sweep": tuple(SweepPoint(load=load, figures=found, bound_s=0.2) for load in loads),
        "command": "hortator report -f FILE -o report.html",
        "version": "1.2.3",
        "commit": "c" * 40,
        "is_modified": False,
    }  # fmt: skip
    return Report(**(values | changed))
