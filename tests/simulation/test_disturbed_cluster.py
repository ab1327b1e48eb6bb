"""A cluster where messages take time, reports are lost and groups die: nothing is lost for all that."""

from __future__ import annotations

from collections import Counter
from functools import cache
from heapq import heappop
from math import isnan
from pathlib import Path

import pytest

from hortator.api.files import load_llmservice
from hortator.scheduler.core.events import RequestArrived, RequestFinished
from hortator.scheduler.core.model import GroupSpec, Phase, SchedulerSettings
from hortator.sim.cluster import GroupPlan, VirtualCluster
from hortator.sim.disturbances import Disturbances, parse_disturbances
from hortator.sim.disturbed import DisturbedCluster
from hortator.sim.results import Recorder, summarize
from hortator.sim.simulate import Study, generated_workload, simulate, with_entry_role
from hortator.sim.workload import LENGTHS, generate, poisson_arrivals
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_config import GroupConfig

CLUSTER = Path(__file__).resolve().parents[2] / "benchmarks/sim/clusters/prefill-4xEP16.yaml"
TOPOLOGIES = {
    "prefill": {"p0": Phase.PREFILL, "p1": Phase.PREFILL, "p2": Phase.PREFILL},
    "prefill-decode": {"p0": Phase.PREFILL, "p1": Phase.PREFILL, "d0": Phase.DECODE, "d1": Phase.DECODE},
    "aggregated": {"a0": Phase.AGGREGATED, "a1": Phase.AGGREGATED},
}


def _plan(group_id: str, phase: Phase, *, chunked: bool) -> GroupPlan:
    sizes = {"dp_size": 4, "chunk_budget_tokens": 4096, "chunked_prefill": chunked, "kv_blocks_total": 2000}
    return GroupPlan(
        spec=GroupSpec(group_id=group_id, phase=phase, max_batch_size=128, **sizes),
        config=GroupConfig(max_batch_size=128, **sizes),
        cost=PassCost(dp_size=4, ep_size=16),
    )


@cache
def _requests(topology: str, seed: int):
    rate = {"prefill": 60.0, "prefill-decode": 30.0, "aggregated": 14.0}[topology]
    return generate(
        lengths=LENGTHS["conversation"],
        arrivals=poisson_arrivals(rate_per_s=rate, duration_s=8.0),
        seed=seed,
    )


class Run:
    """One run, and what may be asked about it."""

    def __init__(self, topology, policy, disturbances, *, seed=0, chunked=True, **settings):
        self.recorder = Recorder()
        self.events = Counter()
        self.finished = Counter()
        self.resumed_at = {}
        settings = SchedulerSettings(
            policy=policy, decode_reservation=topology == "prefill-decode", **settings
        )
        plans = [_plan(name, phase, chunked=chunked) for name, phase in TOPOLOGIES[topology].items()]
        if disturbances is None:
            self.cluster = VirtualCluster(plans, settings, self.recorder, on_event=self._note)
        else:
            self.cluster = DisturbedCluster(
                plans, settings, self.recorder, disturbances, seed=seed, on_event=self._note
            )
        self.cluster.run(_requests(topology, seed))

    def _note(self, now, event, commands):
        self.events[type(event).__name__] += 1
        if isinstance(event, RequestArrived) and event.attempt:
            self.resumed_at.setdefault(event.request_id, now)
        if isinstance(event, RequestFinished):
            self.finished[event.request_id] += 1

    def figures(self):
        return summarize(self.recorder, num_groups=len(self.cluster.groups))

    def settle(self):
        """Let what is on its way arrive."""
        cluster = self.cluster
        until = cluster.now + 5.0
        while cluster._heap[0][0] <= until:
            cluster.now, _, action = heappop(cluster._heap)
            action()
            cluster._start_passes()
            cluster._arm()


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("policy", ["immediate-least-tokens", "staggered", "staggered-plus"])
def test_where_nothing_happens_it_is_the_perfect_cluster(topology, policy):
    """A death after the end of the run: all messages go the long way and take no time."""
    perfect = Run(topology, policy, None)
    other = Run(topology, policy, Disturbances(loss_at_s=1e6))
    assert other.figures() == perfect.figures()
    assert [r.finished_at for r in other.recorder.records] == [
        r.finished_at for r in perfect.recorder.records
    ]


def test_the_wait_of_those_who_come_while_a_group_is_away_is_told():
    """By hand: the requests that arrived between the loss and the group's return."""
    run = Run("aggregated", "staggered-plus", parse_disturbances("loss-at=3s,away=2s"))
    ttfts = [r.ttft_s for r in run.recorder.records if 3.0 <= r.arrived_at < 5.0 and not isnan(r.ttft_s)]
    newcomers = run.cluster.figures()["newcomers"]
    assert newcomers["num"] == len(ttfts) > 5
    assert newcomers["ttft_s"]["mean"] == pytest.approx(sum(ttfts) / len(ttfts))
    assert newcomers["ttft_s"]["max"] == max(ttfts)


def test_the_pause_of_the_resumed_is_told():
    """By hand, where a request ends with its first token: from its being announced again to that."""
    run = Run("prefill", "staggered", parse_disturbances("loss-at=3s,away=2s"))
    pauses = [
        r.first_token_at - run.resumed_at[r.request_id]
        for r in run.recorder.records
        if r.request_id in run.resumed_at
    ]
    resumed = run.cluster.figures()["resumed"]
    assert resumed["num"] == len(pauses) > 1
    assert resumed["pause_s"]["mean"] == pytest.approx(sum(pauses) / len(pauses))


def test_newcomers_wait_less_where_the_resumed_have_a_smaller_share():
    """A decode group is lost with all that it decoded: some passes' work for all prefill groups."""
    service = load_llmservice(CLUSTER)
    small, large = (
        simulate(
            Study(
                service=service,
                workload=generated_workload(service, load=0.7, min_run_s=20.0, seed=1),
                seed=1,
                settings={"resumed_share": share},
                disturbances=parse_disturbances("latency=1ms,jitter=50%,loss-at=12s"),
            ),
            "staggered",
        )["disturbed"]
        for share in (0.2, 0.9)
    )
    assert small["replacements"] > 500
    assert small["newcomers"]["ttft_s"]["p99"] < 0.8 * large["newcomers"]["ttft_s"]["p99"]
    assert small["resumed"]["pause_s"]["mean"] > large["resumed"]["pause_s"]["mean"]


@pytest.mark.parametrize(("seed", "chunked"), [(0, True), (3, False)])
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ("staggered-plus", "latency=20ms,jitter=100%,loss-at=3s,loss-every=6s,away=500ms"),
        ("staggered", "latency=2ms,jitter=50%,report-loss=20%,report-delay=30ms,loss-at=2s,away=3s"),
        (
            "immediate-least-delay",
            "latency=5ms,jitter=100%,length-error=30%,loss-at=4s,loss-every=6s,away=1500ms",
        ),
        ("immediate-least-tokens", "report-loss=60%,loss-at=3s,away=2s"),
    ],
)
def test_no_request_is_lost_and_none_ends_twice(topology, policy, text, seed, chunked):
    """Each is answered once; or it lost two workers, or is longer than an engine that does not chunk takes."""
    run = Run(topology, policy, parse_disturbances(text), seed=seed, chunked=chunked)
    assert run.cluster.counts.groups_lost > 0
    records = run.recorder.records
    assert len(records) == len(_requests(topology, seed))
    assert not run.recorder.live
    for record in records:
        assert isnan(record.finished_at) == bool(record.rejected)
        assert record.rejected in (
            {"", "quarantined"} if chunked else {"", "quarantined", "invalid", "unavailable"}
        )
        if not record.rejected:
            assert record.arrived_at <= record.dispatched_at <= record.started_at < record.first_token_at
            assert record.first_token_at <= record.finished_at
    if run.cluster.counts.groups_lost == 1:
        assert not any(record.rejected == "quarantined" for record in records)
    run.settle()
    run.cluster.machine.check_invariants()
    assert not run.cluster.machine.requests
    completed = {record.request_id for record in records if not record.rejected}
    assert run.finished == Counter(dict.fromkeys(completed, 1))
    for group in run.cluster.groups.values():
        group.model.check_invariants()
        assert group.model.num_live == 0


def test_the_same_seed_gives_the_same_run_and_another_one_another():
    text = parse_disturbances("latency=5ms,jitter=100%,loss-every=3s,away=1s,report-loss=5%,length-error=10%")
    first, again = (Run("prefill-decode", "staggered-plus", text, seed=1) for _ in range(2))
    assert again.recorder.records == first.recorder.records
    assert again.cluster.counts == first.cluster.counts
    other = Run("prefill-decode", "staggered-plus", text, seed=2)
    assert other.cluster.counts != first.cluster.counts


def test_a_resumed_answer_waits_for_the_loss_and_no_token_comes_twice():
    run = Run("prefill-decode", "staggered", Disturbances(loss_at_s=6.0, away_s=2.0, latency_s=0.002), seed=5)
    perfect = Run("prefill-decode", "staggered", None, seed=5)
    assert run.cluster.counts.replacements > 0
    late = {
        record.request_id
        for record, other in zip(run.recorder.records, perfect.recorder.records, strict=True)
        if record.finished_at - other.finished_at > 0.05
    }
    assert late
    run.settle()
    assert run.events["RequestFinished"] == len(run.recorder.records)


def test_an_idle_group_whose_last_pass_end_was_lost_is_given_work_again():
    run = Run("prefill", "staggered", Disturbances(report_loss=0.5))
    assert run.cluster.counts.reports_lost > 20
    assert max(record.hold_s for record in run.recorder.records) < 4.0


def test_latency_is_felt_in_the_hold_of_a_request():
    run = Run("prefill", "immediate-least-tokens", Disturbances(latency_s=0.02))
    assert min(record.hold_s for record in run.recorder.records) == pytest.approx(0.02)
    assert min(record.engine_queue_s for record in run.recorder.records) == pytest.approx(0.04)


def test_wrong_lengths_are_announced_and_the_true_ones_computed():
    seen = Counter()
    run = Run("prefill", "staggered", Disturbances(length_error=0.1))
    for record in run.recorder.records:
        seen[record.num_prompt_tokens] += 1
    assert seen == Counter(request.num_prompt_tokens for request in _requests("prefill", 0))


@pytest.mark.parametrize("policy", ["staggered", "staggered-plus"])
def test_a_millisecond_of_latency_does_not_cost_a_pass(policy):
    """A batch that comes as a pass has begun waits for all of it; so it must be sent before the last one ends.

    Without that, mean TTFT of the reference cluster doubles with any latency at all.
    """
    means = [_reference_mean_s(policy, parse_disturbances(text)) for text in ("", "latency=1ms,jitter=50%")]
    assert means[1] < 1.25 * means[0]


def _reference_mean_s(policy: str, disturbances: Disturbances) -> float:
    service = with_entry_role(load_llmservice(CLUSTER), chunk_budget_tokens=4096)
    study = Study(
        service=service,
        workload=generated_workload(service, load=0.7, min_run_s=12.0),
        prefill_only=True,
        disturbances=disturbances,
    )
    return simulate(study, policy)["ttft_s"]["mean"]
