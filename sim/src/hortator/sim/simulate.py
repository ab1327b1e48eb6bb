"""Simulate what an LLMService would do: its groups as modelled engines, its scheduler as it is.

What is simulated is what would be deployed: roles, ranks, budgets, queue limits and policy come from the
manifest. Engines are the H800 cost model whatever `engine.backend` says.

The scheduler is not told how long an output will be: it sees the limit a client would send
(`ANNOUNCED_OUTPUT_TOKENS`, or the true length where that is more).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hortator.api import processes
from hortator.api.v1alpha1 import LLMService, RoleSpec
from hortator.scheduler.core.commands import Command
from hortator.scheduler.core.events import Event
from hortator.scheduler.core.model import GroupSpec, Phase, SchedulerSettings, TenantSettings
from hortator.sim.arrivals import POISSON, RECORDED, ArrivalMode, Arrivals
from hortator.sim.cluster import GroupPlan, OnPass, VirtualCluster
from hortator.sim.disturbances import Disturbances
from hortator.sim.disturbed import DisturbedCluster
from hortator.sim.load import MIN_RUN_S, LoadedTrace, at_load, default_engine_seconds
from hortator.sim.lower_bound import LowerBound, lower_bound
from hortator.sim.records import RequestRecord, RequestTable
from hortator.sim.results import Recorder, summarize
from hortator.sim.slo import Slo
from hortator.sim.streams import GeneratedRequests
from hortator.sim.tally import MAX_EXACT_REQUESTS
from hortator.sim.workload import LENGTHS, TraceRequest, generate, poisson_arrivals
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_model import GroupConfig

PHASES: Mapping[str, Phase] = {
    "Prefill": Phase.PREFILL,
    "Decode": Phase.DECODE,
    "Aggregated": Phase.AGGREGATED,
}
WARMUP_SHARE = 0.05
"""Requests that arrive in this first share of a run are simulated and not counted."""
MAX_WARMUP_S = 60.0

OnEvent = Callable[[float, Event, list[Command]], None]
OnProgress = Callable[[float], None]
OnEnd = Callable[[RequestTable], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A cluster and a workload: everything but the policy."""

    service: LLMService
    workload: LoadedTrace
    seed: int = 0
    prefill_only: bool = False
    """Leave the decode groups out; a request ends with its first token. For TTFT studies."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of SchedulerSettings that override the manifest's."""
    slo: Slo = field(default_factory=Slo)
    """What counts as goodput; without limits none is reported."""
    disturbances: Disturbances = field(default_factory=Disturbances)
    """What is not perfect; see `disturbances`."""

    @property
    def num_entry_groups(self) -> int:
        """Prefill (or aggregated) EP groups."""
        return num_entry_groups(self.service)

    @property
    def warmup_s(self) -> float:
        """Requests that arrive before are not counted."""
        return min(MAX_WARMUP_S, WARMUP_SHARE * self.workload.wall_s)


def entry_role(service: LLMService) -> RoleSpec:
    """The role that takes arrivals."""
    return service.role("Aggregated" if service.spec.topology == "Aggregated" else "Prefill")


def with_simulated(service: LLMService, **changes: object) -> LLMService:
    """The same service, the options of its simulated engine changed, as in `expert_skew=2.0`."""
    options = service.spec.engine.simulated_options.model_copy(update=changes)
    engine = service.spec.engine.model_copy(update={"simulated": options})
    return service.model_copy(update={"spec": service.spec.model_copy(update={"engine": engine})})


def with_entry_role(service: LLMService, **changes: object) -> LLMService:
    """The same service, the role that takes arrivals changed, as in `chunk_budget_tokens=4096`."""
    name = entry_role(service).name
    roles = tuple(
        role.model_copy(update=changes) if role.name == name else role for role in service.spec.roles
    )
    return service.model_copy(update={"spec": service.spec.model_copy(update={"roles": roles})})


def num_entry_groups(service: LLMService) -> int:
    """Prefill (or aggregated) EP groups over all role sets."""
    return entry_role(service).replicas * service.spec.replicas


def pass_cost(service: LLMService, role: RoleSpec, disturbances: Disturbances | None = None) -> PassCost:
    """The cost model of one of the role's EP groups; a slow rank is not in it."""
    disturbances = disturbances or Disturbances()
    simulated = service.spec.engine.simulated_options
    return PassCost(
        simulated.preset,
        dp_size=role.parallelism.attention_dp,
        ep_size=role.parallelism.attention_dp * role.parallelism.tensor,
        gpus_per_node=role.gpus_per_node,
        expert_skew=simulated.expert_skew,
        kv_cache_dtype=role.kv_cache_dtype,
        engine_factor=disturbances.engine_factor,
        floor_factor=disturbances.floor_factor,
    )


def plan_groups(
    service: LLMService,
    *,
    seed: int = 0,
    prefill_only: bool = False,
    disturbances: Disturbances | None = None,
) -> list[GroupPlan]:
    """One plan per EP group of the service, named `prefill-0`, `decode-1`, ..."""
    disturbances = disturbances or Disturbances()
    plans: list[GroupPlan] = []
    max_sequence_tokens = processes.sequence_limit(
        service, model_sequence_tokens=processes.SIMULATED_SEQUENCE_TOKENS
    )
    for role in service.spec.roles:
        phase = PHASES[role.name]
        if prefill_only and phase is Phase.DECODE:
            continue
        cost = pass_cost(service, role, disturbances)
        kv_blocks = role.kv_blocks or cost.kv_blocks_total(role.tokens_per_block)
        for index in range(role.replicas * service.spec.replicas):
            config = GroupConfig(
                dp_size=cost.dp_size,
                chunk_budget_tokens=role.chunk_budget_tokens,
                chunked_prefill=role.chunked_prefill,
                max_batch_size=role.max_batch_size,
                kv_blocks_total=kv_blocks,
                tokens_per_block=role.tokens_per_block,
                max_sequence_tokens=max_sequence_tokens,
                slow_rank_factor=disturbances.slow_rank,
                context_timeout_iters=int(disturbances.context_wait_iters),
                batching_wait_iters=int(disturbances.batching_wait_iters),
                seed=seed * 1000 + len(plans),
            )
            spec = GroupSpec(
                group_id=f"{role.name.lower()}-{index}",
                phase=phase,
                dp_size=config.dp_size,
                ep_size=cost.ep_size,
                chunk_budget_tokens=config.chunk_budget_tokens,
                chunked_prefill=config.chunked_prefill,
                max_batch_size=config.max_batch_size,
                kv_blocks_total=kv_blocks,
                tokens_per_block=config.tokens_per_block,
                max_sequence_tokens=config.max_sequence_tokens,
            )
            plans.append(GroupPlan(spec=spec, config=config, cost=cost))
    return plans


def scheduler_settings(study: Study, policy: str) -> SchedulerSettings:
    """The manifest's scheduler section as the core's settings."""
    values: dict[str, Any] = {
        **processes.scheduler_core(study.service),
        "policy": policy,
        "decode_reservation": not study.prefill_only,
    }
    values.update(study.settings)
    values["tenants"] = tuple(TenantSettings(**tenant) for tenant in values.get("tenants", ()))
    return SchedulerSettings(**values)


def engine_seconds_for(service: LLMService) -> Callable[[int], float]:
    """Engine-seconds of a prompt on one of the service's entry groups; the unit of load."""
    role = entry_role(service)
    return default_engine_seconds(
        preset=service.spec.engine.simulated_options.preset,
        dp_size=role.parallelism.attention_dp,
        ep_size=role.parallelism.attention_dp * role.parallelism.tensor,
        gpus_per_node=role.gpus_per_node,
    )


def trace_workload(
    service: LLMService,
    requests: Sequence[TraceRequest],
    *,
    load: float,
    arrivals: Arrivals = RECORDED,
    seed: int = 0,
    min_run_s: float = MIN_RUN_S,
) -> LoadedTrace:
    """A recorded trace at a load on this service."""
    return at_load(
        requests,
        load=load,
        num_groups=num_entry_groups(service),
        engine_seconds=engine_seconds_for(service),
        arrivals=arrivals,
        min_run_s=min_run_s,
        seed=seed,
    )


def generated_workload(
    service: LLMService,
    *,
    load: float,
    lengths: str = "conversation",
    arrivals: Arrivals = POISSON,
    seed: int = 0,
    min_run_s: float = MIN_RUN_S,
) -> LoadedTrace:
    """Generated lengths and arrivals at a load on this service, at least `min_run_s` virtual seconds long.

    Workloads that differ only in arrivals have the same lengths in the same order; a DIURNAL one ends where
    its periods do.

    Raises:
        ValueError: unknown lengths, RECORDED arrivals, a load that is not positive or without any request in
            the run, or a `min_run_s` of less than a period of DIURNAL.
    """
    if lengths not in LENGTHS:
        raise ValueError(f"unknown lengths {lengths!r} (allowed: {', '.join(LENGTHS)})")
    if arrivals.mode is ArrivalMode.RECORDED:
        raise ValueError("generated requests have no recorded times (allowed: poisson, gamma, diurnal)")
    if not load > 0:
        raise ValueError(f"load must be above 0, got {load}")
    run_s = arrivals.shortest_run_s(min_run_s)
    engine_seconds = engine_seconds_for(service)
    sample = generate(
        lengths=LENGTHS[lengths], arrivals=poisson_arrivals(rate_per_s=200.0, duration_s=100.0), seed=seed
    )
    mean_s = sum(engine_seconds(request.num_prompt_tokens) for request in sample) / len(sample)
    rate_per_s = load * num_entry_groups(service) / mean_s

    def drawn(duration_s: float) -> GeneratedRequests:
        times = poisson_arrivals(rate_per_s=rate_per_s, duration_s=duration_s)
        return GeneratedRequests.draw(lengths=LENGTHS[lengths], arrivals=times, seed=seed)

    # A little longer than asked, so that stretching it to the exact load never makes it a tile too short.
    requests = drawn(1.05 * run_s)
    if arrivals.mode is ArrivalMode.DIURNAL:
        # Whole periods: cut where they end.
        total_s, longer = load * num_entry_groups(service) * run_s, 1.05
        while not (enough := _num_until(requests, total_s, engine_seconds)):
            longer *= 2
            requests = drawn(longer * run_s)
        requests = replace(requests, num_requests=enough)
    # Generated times are a Poisson process already, which stretching keeps.
    timed = RECORDED if arrivals.mode is ArrivalMode.POISSON else arrivals
    workload = trace_workload(service, requests, load=load, arrivals=timed, seed=seed, min_run_s=min_run_s)
    return replace(workload, arrivals=arrivals.fitted_to(workload.wall_s), lengths=lengths)


def _num_until(
    requests: Sequence[TraceRequest], total_s: float, engine_seconds: Callable[[int], float]
) -> int:
    """How many requests take at least `total_s` engine-seconds together; 0 where all take less."""
    reached = 0.0
    for index, request in enumerate(requests, start=1):
        reached += engine_seconds(request.num_prompt_tokens)
        if reached > total_s * (1 + 1e-9):
            return index
    return 0


def simulate(
    study: Study,
    policy: str,
    *,
    on_event: OnEvent | None = None,
    on_progress: OnProgress | None = None,
    on_pass: OnPass | None = None,
    on_end: OnEnd | None = None,
    keep_records: list[RequestRecord] | None = None,
) -> dict[str, object]:
    """Run one policy and return its figures; see `results` for what each means.

    `events` counts those of the scheduler; `short` says that the run is shorter than MIN_RUN_S;
    `disturbed` counts what happened where something but the engines is disturbed.

    Args:
        study: cluster and workload.
        policy: a name of the policy registry; ValueError lists them.
        on_event: called for every scheduler event (for recording).
        on_progress: called now and then with the share of arrivals that have happened, 0..1.
        on_pass: called as each pass starts.
        on_end: called with all requests when the run is over; they are all kept for it.
        keep_records: filled with one record per request.
    """
    plans = plan_groups(
        study.service, seed=study.seed, prefill_only=study.prefill_only, disturbances=study.disturbances
    )
    recorder = Recorder(
        warmup_s=study.warmup_s,
        slo=study.slo,
        keep_records=keep_records is not None,
        max_rows=MAX_EXACT_REQUESTS if on_end is None else None,
    )
    settings = scheduler_settings(study, policy)
    if study.disturbances.are_in_transit:
        cluster: VirtualCluster = DisturbedCluster(
            plans,
            settings,
            recorder,
            study.disturbances,
            seed=study.seed,
            on_event=on_event,
            on_pass=on_pass,
        )
    else:
        cluster = VirtualCluster(plans, settings, recorder, on_event=on_event, on_pass=on_pass)
    requests: Sequence[TraceRequest] | Iterator[TraceRequest] = study.workload.requests
    if on_progress is not None:
        requests = _reporting(study.workload.requests, on_progress)
    cluster.run(requests)
    if keep_records is not None:
        keep_records.extend(recorder.records)
    if on_end is not None:
        on_end(recorder.table())
    figures = summarize(recorder, num_groups=len(plans))
    figures["events"] = cluster.num_events
    figures["short"] = study.workload.wall_s < MIN_RUN_S * (1 - 1e-9)
    if isinstance(cluster, DisturbedCluster):
        figures["disturbed"] = cluster.figures()
    return figures


def ttft_lower_bound(study: Study) -> LowerBound | None:
    """What mean TTFT no policy can beat; None where decode or a prefix cache makes that unknown."""
    requests = study.workload.requests
    if not study.prefill_only or any(request.prefix_block_ids for request in requests):
        return None
    role = entry_role(study.service)
    return lower_bound(
        requests,
        cost=pass_cost(study.service, role, study.disturbances),
        num_groups=study.num_entry_groups,
        chunk_budget_tokens=role.chunk_budget_tokens,
        warmup_s=study.warmup_s,
    )


def _reporting(requests: Sequence[TraceRequest], on_progress: OnProgress) -> Iterator[TraceRequest]:
    every = max(1, len(requests) // 200)
    for index, request in enumerate(requests):
        if index % every == 0:
            on_progress(index / len(requests))
        yield request
    on_progress(1.0)
