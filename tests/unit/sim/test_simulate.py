"""What is simulated is what is deployed; the workload is the one that was asked for."""

import dataclasses
import hashlib
import itertools
from pathlib import Path

import pytest

from hortator.api.files import parse_llmservice
from hortator.cli import process_settings
from hortator.scheduler.codec import decode_hello
from hortator.scheduler.core.model import Phase
from hortator.scheduler.core.policies.registry import POLICY_NAMES
from hortator.scheduler.settings import SchedulerProcessSettings
from hortator.sim.arrivals import POISSON, RECORDED, ArrivalMode, Arrivals
from hortator.sim.load import load_of
from hortator.sim.simulate import (
    Study,
    engine_seconds_for,
    generated_workload,
    num_entry_groups,
    plan_groups,
    scheduler_settings,
    simulate,
    trace_workload,
)
from hortator.sim.workload import LENGTHS, TraceRequest
from hortator.worker.codec import encode_hello
from hortator.worker.engine import RankLoad
from hortator.worker.engine_factory import build_engine, read_options
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.report import LoadSnapshot, WorkerIdentity
from hortator.worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[3]

EVERYTHING_ELSE = """
apiVersion: serving.hortator.dev/v1alpha1
kind: LLMService
metadata: {name: other}
spec:
  replicas: 2
  model: {uri: "hf://deepseek-ai/DeepSeek-V3", name: deepseek-v3}
  engine:
    backend: Simulated
    simulated: {preset: rtp-h800, timeScale: 0.5, expertSkew: 1.5, seed: 7}
  topology: PrefillDecode
  roles:
  - name: Prefill
    replicas: 3
    nodes: 4
    gpusPerNode: 4
    parallelism: {attentionDP: 16, expert: 16}
    chunkBudgetTokens: 4096
    chunkedPrefill: false
    maxBatchSize: 33
    tokensPerBlock: 32
    kvBlocks: 4321
    maxSequenceTokens: 30000
  - name: Decode
    replicas: 1
    nodes: 4
    gpusPerNode: 8
    parallelism: {attentionDP: 32, expert: 32}
    maxBatchSize: 44
    tokensPerBlock: 32
    maxSequenceTokens: 20000
  scheduler:
    policy: staggered-plus
    interval: 10ms
    maxHold: 750ms
    queue: {maxRequests: 123, maxTokens: 45678, timeout: 9s}
    replicas: 1
  gateway: {replicas: 1}
"""


def _text(path):
    return (ROOT / path).read_text()


MANIFESTS = {
    "4 x EP16": _text("benchmarks/sim/clusters/prefill-4xEP16.yaml"),
    "64 GPUs": _text("benchmarks/sim/clusters/h800-64.yaml"),
    "sample": _text("manifests/samples/llmservice-simulated.yaml"),
    "sample, apart": _text("manifests/samples/llmservice-simulated-64.yaml"),
    "no default anywhere": EVERYTHING_ELSE,
}


EVERY_MODE = [Arrivals(mode=mode, period_s=30.0) for mode in ArrivalMode]
"""Two swings of DIURNAL in the minute that runs last here."""


def service(name):
    return parse_llmservice(MANIFESTS[name], source=name)


@pytest.fixture
def a_workload():
    """Any; who only plans does not run it."""
    return generated_workload(service("64 GPUs"), load=0.5, min_run_s=1.0)


def _groups(of):
    return [(plan.spec.group_id, plan.spec.phase, plan.spec.dp_size) for plan in of]


class TestGroups:
    def test_the_comparison_has_four_prefill_groups_of_16_and_two_decode_groups_of_64(self):
        assert _groups(plan_groups(service("4 x EP16"))) == [
            *((f"prefill-{i}", Phase.PREFILL, 16) for i in range(4)),
            *((f"decode-{i}", Phase.DECODE, 64) for i in range(2)),
        ]

    def test_64_gpus_are_two_prefill_groups_of_16_and_a_decode_group_of_32(self):
        assert _groups(plan_groups(service("64 GPUs"))) == [
            ("prefill-0", Phase.PREFILL, 16),
            ("prefill-1", Phase.PREFILL, 16),
            ("decode-0", Phase.DECODE, 32),
        ]

    def test_a_study_of_prefill_leaves_the_decode_groups_out(self):
        plans = plan_groups(service("4 x EP16"), prefill_only=True)
        assert [plan.spec.phase for plan in plans] == [Phase.PREFILL] * 4

    @pytest.mark.parametrize(
        ("name", "num_groups", "num_entry"),
        [("no default anywhere", 8, 6), ("sample", 2, 2), ("64 GPUs", 3, 2)],
    )
    def test_the_role_sets_of_a_service_all_have_their_groups(self, name, num_groups, num_entry):
        plans = plan_groups(service(name))
        assert len({plan.spec.group_id for plan in plans}) == num_groups
        assert num_entry_groups(service(name)) == num_entry

    def test_every_group_has_a_seed_of_its_own_that_follows_from_the_study(self):
        def seeds(seed):
            return [plan.config.seed for plan in plan_groups(service("4 x EP16"), seed=seed)]

        assert seeds(1) == seeds(1)
        assert len({*seeds(1), *seeds(2)}) == 12


@pytest.mark.parametrize("name", MANIFESTS)
class TestWhatIsSimulatedIsWhatIsDeployed:
    async def test_every_group_is_what_its_worker_declares_to_the_scheduler(self, name):
        """Through the worker's settings, its engine, its hello and the scheduler's reading of it."""
        of = service(name)
        plans = plan_groups(of)
        for role in of.spec.roles:
            settings = WorkerSettings.load(
                **process_settings.worker(
                    of,
                    role_name=role.name,
                    worker_id="w",
                    scheduler_addresses=["127.0.0.1:7"],
                    log_level="INFO",
                )
            )
            engine = build_engine(settings.engine, settings.engine_options)
            try:
                info = await engine.start()
            finally:
                await engine.aclose()
            identity = WorkerIdentity(worker_id="w", boot_id="b", address="a", phase=settings.phase)
            idle = tuple(
                RankLoad(dp_rank=rank, prefill_load_tokens=0, num_waiting=0, batch_size=0, kv_blocks_used=0)
                for rank in range(info.dp_size)
            )
            loads = LoadSnapshot(epoch=1, included_dispatch_seq=0, ranks=idle)
            declared = decode_hello(encode_hello(identity, info, loads, ())).group
            of_role = [plan for plan in plans if plan.spec.phase.value == settings.phase]
            assert len(of_role) == role.replicas * of.spec.replicas
            for plan in of_role:
                spec = dataclasses.replace(plan.spec, group_id="w", boot_id="b", address="a")
                assert spec == declared

    def test_every_engine_has_the_limits_and_the_costs_of_the_deployed_one(self, name):
        of = service(name)
        for plan in plan_groups(of):
            role = next(r for r in of.spec.roles if r.name.lower() == plan.spec.phase.value)
            settings = process_settings.worker(
                of, role_name=role.name, worker_id="w", scheduler_addresses=["127.0.0.1:7"], log_level="INFO"
            )
            config = read_options(SimulatedConfig, settings["engine_options"])
            cost = config.pass_cost()
            assert plan.config == dataclasses.replace(config.group_config(cost), seed=plan.config.seed)
            full = [plan.config.chunk_budget_tokens] * plan.config.dp_size
            pairs = [1e6] * plan.config.dp_size
            assert plan.cost.prefill_s(full, pairs) == cost.prefill_s(full, pairs)

    def test_the_scheduler_core_gets_the_same_settings(self, name, a_workload):
        of = service(name)
        process = SchedulerProcessSettings.load(
            **process_settings.scheduler(of, port=0, log_level="INFO", record_to=None)
        )
        study = Study(service=of, workload=a_workload)
        assert scheduler_settings(study, of.spec.scheduler.policy) == process.core_settings()


class TestSettings:
    @pytest.mark.parametrize("policy", POLICY_NAMES)
    def test_the_policy_is_the_one_that_is_named_whatever_the_manifest_says(self, a_workload, policy):
        study = Study(service=service("64 GPUs"), workload=a_workload)
        assert scheduler_settings(study, policy).policy == policy

    def test_a_study_of_prefill_reserves_nothing_for_decode(self, a_workload):
        study = Study(service=service("64 GPUs"), workload=a_workload, prefill_only=True)
        assert scheduler_settings(study, "staggered").decode_reservation is False

    def test_the_settings_of_a_study_override_those_of_the_manifest(self, a_workload):
        study = Study(service=service("64 GPUs"), workload=a_workload, settings={"max_hold_s": 0.125})
        assert scheduler_settings(study, "staggered").max_hold_s == 0.125


class TestWorkloads:
    @pytest.fixture
    def trace(self):
        """Bursts: four requests at once, every ten seconds; each with a length of its own."""
        return [
            TraceRequest(arrived_at=10.0 * (i // 4), num_prompt_tokens=500 + i, num_output_tokens=20)
            for i in range(40)
        ]

    @pytest.mark.parametrize("load", [0.3, 0.85])
    def test_generated_requests_offer_the_load_that_was_asked_for(self, load):
        of = service("4 x EP16")
        workload = generated_workload(of, load=load, min_run_s=60.0)
        offered = load_of(
            workload.requests, num_groups=4, engine_seconds=engine_seconds_for(of), wall_s=workload.wall_s
        )
        assert offered == pytest.approx(load)
        assert workload.load == load
        assert 60.0 <= workload.wall_s < 70.0
        assert workload.num_tiles == 1

    @pytest.mark.parametrize("load", [0.3, 0.85])
    @pytest.mark.parametrize("arrivals", EVERY_MODE, ids=lambda arrivals: arrivals.mode)
    def test_a_trace_offers_the_load_that_was_asked_for(self, trace, load, arrivals):
        of = service("64 GPUs")
        workload = trace_workload(of, trace, load=load, arrivals=arrivals, min_run_s=60.0)
        offered = load_of(
            workload.requests, num_groups=2, engine_seconds=engine_seconds_for(of), wall_s=workload.wall_s
        )
        assert offered == pytest.approx(load)

    def test_recorded_arrivals_keep_their_bursts_and_poisson_arrivals_do_not(self, trace):
        def times(arrivals):
            workload = trace_workload(service("64 GPUs"), trace, load=0.5, arrivals=arrivals, min_run_s=1.0)
            return {request.arrived_at for request in workload.requests[:40]}

        assert len(times(RECORDED)) == 10
        assert len(times(POISSON)) == 40

    def test_arrivals_are_recorded_ones_unless_asked_otherwise(self, trace):
        of = service("64 GPUs")
        assert trace_workload(of, trace, load=0.5, min_run_s=1.0) == trace_workload(
            of, trace, load=0.5, arrivals=RECORDED, min_run_s=1.0
        )

    def test_the_seed_decides_what_is_drawn(self, trace):
        of = service("64 GPUs")

        def drawn(seed):
            generated = generated_workload(of, load=0.5, seed=seed, min_run_s=5.0)
            poisson = trace_workload(of, trace, load=0.5, arrivals=POISSON, seed=seed, min_run_s=5.0)
            times = [request.arrived_at for request in generated.requests[:10]]
            gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
            shape = [gap / gaps[0] for gap in gaps]  # whatever the rate
            lengths = [request.num_prompt_tokens for request in generated.requests[:100]]
            return shape, lengths, [request.arrived_at for request in poisson.requests]

        assert drawn(1) == drawn(1)
        (shape, lengths, times), (other_shape, other_lengths, other_times) = drawn(1), drawn(2)
        assert shape != pytest.approx(other_shape)
        assert lengths != other_lengths
        assert times != other_times

    @pytest.mark.parametrize("arrivals", EVERY_MODE[1:], ids=lambda arrivals: arrivals.mode)
    @pytest.mark.parametrize("lengths", LENGTHS)
    def test_generated_requests_of_every_kind_offer_the_load_that_was_asked_for(self, arrivals, lengths):
        of = service("4 x EP16")
        workload = generated_workload(of, load=0.01, lengths=lengths, arrivals=arrivals, min_run_s=60.0)
        offered = load_of(
            workload.requests, num_groups=4, engine_seconds=engine_seconds_for(of), wall_s=workload.wall_s
        )
        assert offered == pytest.approx(0.01)
        assert workload.lengths == lengths
        assert workload.arrivals.mode is arrivals.mode
        assert max(request.arrived_at for request in workload.requests) < workload.wall_s

    def test_generated_requests_that_differ_in_arrivals_have_the_same_lengths_in_the_same_order(self):
        def lengths(arrivals):
            of = service("4 x EP16")
            workload = generated_workload(of, load=0.3, arrivals=arrivals, min_run_s=60.0)
            return [(request.num_prompt_tokens, request.num_output_tokens) for request in workload.requests]

        poisson, gamma, diurnal = (lengths(arrivals) for arrivals in EVERY_MODE[1:])
        assert poisson == gamma
        assert 0.9 * len(poisson) < len(diurnal) <= len(poisson)
        assert diurnal == poisson[: len(diurnal)]

    def test_two_days_at_a_small_load_are_two_days(self):
        workload = generated_workload(
            service("4 x EP16"),
            load=1e-6,
            lengths="short-prompt-lognormal",
            arrivals=Arrivals(mode=ArrivalMode.DIURNAL),
            min_run_s=48 * 3600.0,
        )
        day_s = workload.arrivals.period_s
        assert workload.num_tiles == 1
        assert workload.wall_s == pytest.approx(2 * day_s)
        assert day_s == pytest.approx(24 * 3600.0, rel=1e-3)
        quarters = [0] * 4
        for request in workload.requests:
            # From an eighth before: around the crest is the second quarter, around the trough the last.
            quarters[int((request.arrived_at / day_s + 1 / 8) * 4) % 4] += 1
        # 1 +- 0.6 * 0.900 times the mean
        assert quarters[1] / quarters[3] == pytest.approx(1.54 / 0.46, rel=0.2)

    @pytest.mark.parametrize("seed", range(5))
    def test_a_day_of_few_requests_is_still_one_day(self, seed):
        """Too few were drawn at first for some of the seeds: others follow them, not the same ones again."""
        workload = generated_workload(
            service("4 x EP16"),
            load=1e-5,
            arrivals=Arrivals(mode=ArrivalMode.DIURNAL, period_s=3600.0),
            seed=seed,
            min_run_s=3600.0,
        )
        assert workload.num_tiles == 1
        assert workload.wall_s == workload.arrivals.period_s

    def test_recorded_arrivals_without_a_trace_are_refused(self):
        with pytest.raises(ValueError, match="no recorded times"):
            generated_workload(service("64 GPUs"), load=0.5, arrivals=RECORDED)

    def test_the_default_workload_is_the_one_of_the_recorded_benchmarks(self):
        """Figures in benchmarks/results were measured with these very requests."""
        workload = generated_workload(service("4 x EP16"), load=0.5, min_run_s=120.0)
        drawn = [
            (round(request.arrived_at, 6), request.num_prompt_tokens, request.num_output_tokens)
            for request in workload.requests
        ]
        digest = hashlib.sha256(repr(drawn).encode()).hexdigest()
        assert digest[:16] == "330583c9977d7686"

    def test_lengths_and_load_that_make_no_sense_are_refused(self):
        with pytest.raises(ValueError, match="unknown lengths 'novel'"):
            generated_workload(service("64 GPUs"), load=0.5, lengths="novel")
        with pytest.raises(ValueError, match="load must be above 0"):
            generated_workload(service("64 GPUs"), load=0.0)


class TestRuns:
    """Runs of a few virtual seconds."""

    @pytest.fixture
    def study(self):
        of = service("64 GPUs")
        return Study(service=of, workload=generated_workload(of, load=0.7, seed=3, min_run_s=6.0), seed=3)

    def test_every_policy_decides_for_itself(self, study):
        """The same workload, other waiting times."""
        figures = [
            simulate(study, policy) for policy in ("immediate-round-robin", "staggered", "staggered-plus")
        ]
        assert len({figure["ttft_s"]["mean"] for figure in figures}) == 3
        for figure in figures:
            assert figure["completed"] == figure["requests"] > 100
            assert figure["requests"] < len(study.workload.requests)  # without those of the warm-up

    def test_a_run_can_be_repeated_and_shows_its_records_and_events(self, study):
        records, shares, num_events = [], [], 0

        def count(now, event, commands):
            nonlocal num_events
            num_events += 1

        first = simulate(study, "staggered", on_event=count, on_progress=shares.append, keep_records=records)
        assert simulate(study, "staggered") == first
        assert len(records) == len(study.workload.requests)
        assert num_events > 2 * len(records)
        assert (shares[0], shares[-1]) == (0.0, 1.0)

    def test_a_study_of_prefill_ends_with_the_first_token(self, study):
        figures = simulate(dataclasses.replace(study, prefill_only=True), "staggered")
        assert figures["completed"] == figures["requests"]
        assert figures["first_gap_s"]["max"] == 0.0

    def test_the_limits_of_the_queue_hold(self, study):
        limited = dataclasses.replace(study, settings={"max_waiting_requests": 1})
        assert simulate(limited, "staggered")["rejected"] > 0
        assert simulate(study, "staggered")["rejected"] == 0
