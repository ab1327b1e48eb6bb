"""A minute of ten times what a group can do, and one tenant's flood beside the others; in virtual time.

The scheduler's core and policies as they are, over simulated groups (`hortator.sim`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from doubles.phases import phases
from hortator.api.files import load_llmservice
from hortator.scheduler.core.commands import Command, Reject
from hortator.scheduler.core.events import Event, RequestArrived
from hortator.scheduler.core.model import RejectReason, SchedulerSettings
from hortator.sim.cluster import VirtualCluster
from hortator.sim.records import RequestTable
from hortator.sim.results import Recorder
from hortator.sim.simulate import Study, generated_workload, plan_groups, simulate
from hortator.sim.tenants import FLOODING, Tenants, with_tenants

CLUSTER = Path(__file__).resolve().parents[2] / "benchmarks/sim/clusters/prefill-4xEP16.yaml"
CALM_LOAD, OVERLOAD = 0.6, 10.0
OVERLOAD_AT, OVER_AT, END_AT = 30.0, 90.0, 150.0
WARMUP_S = 5.0
MAX_WAIT_S = 2.0
NUM_TENANTS = 10
FLOOD = 10.0
FLOOD_LOAD = 0.5
FLOOD_WARMUP_S = 6.0
FLOOD_MAX_WAIT_S = 15.0
FLOOD_RUN_S = 120.0


def overloaded(policy: str) -> dict[str, Any]:
    """What a minute of ten times the capacity of one group has shown."""
    recorder = Recorder()
    most_waiting = most_requests = num_late = 0

    def on_event(_now: float, event: Event, commands: list[Command]) -> None:
        nonlocal most_waiting, most_requests, num_late
        most_waiting = max(most_waiting, len(cluster.machine.waiting))
        most_requests = max(most_requests, len(cluster.machine.requests))
        for command in commands:
            if isinstance(command, Reject):
                on_arrival = isinstance(event, RequestArrived) and command.retry_after_s > 0
                num_late += not (on_arrival and command.reason is RejectReason.PREDICTED_WAIT)

    group = plan_groups(load_llmservice(CLUSTER), prefill_only=True)[0]
    settings = SchedulerSettings(policy=policy, decode_reservation=False, max_wait_s=MAX_WAIT_S)
    cluster = VirtualCluster([group], settings, recorder, on_event=on_event)
    cluster.run(
        phases((CALM_LOAD, OVERLOAD_AT), (OVERLOAD, OVER_AT - OVERLOAD_AT), (CALM_LOAD, END_AT - OVER_AT))
    )
    table = recorder.table()
    during = _arrived(table, OVERLOAD_AT, OVER_AT)
    accepted = during.where(during.is_rejected == 0)
    return {
        "policy": policy,
        "times_the_capacity": OVERLOAD,
        "requests": len(table.arrived_at),
        "refused_share": round(float(during.is_rejected.mean()), 3),
        "refused_late_or_otherwise": num_late,
        "accepted_ttft_p99_s": round(float(np.percentile(accepted.ttft_s, 99)), 3),
        "most_waiting": most_waiting,
        "most_requests": most_requests,
        "recovery_s": _recovery_s(table),
    }


def flooded(policy: str) -> dict[str, Any]:
    """What one of ten tenants that asks for ten times its share does to the TTFT of the others."""
    calm, flood = _others(policy, flood=1.0), _others(policy, flood=FLOOD)
    figures: dict[str, Any] = {"policy": policy, "tenants": NUM_TENANTS, "times_its_share": FLOOD}
    for name, of in (("mean", np.mean), ("p99", lambda ttft_s: np.percentile(ttft_s, 99))):
        before, after = (float(of(table.ttft_s[table.is_finished])) for table in (calm, flood))
        figures |= {
            f"others_ttft_{name}_s": round(before, 4),
            f"others_ttft_{name}_moved_by": round(after / before - 1, 4),
        }
    return figures | {"others_refused": int(flood.is_rejected.sum())}


def _recovery_s(table: RequestTable) -> float:
    """Seconds until nobody is refused, and no second's arrivals wait longer than any did before."""
    usual_s = max(
        float(_arrived(table, second, second + 1.0).ttft_s.mean())
        for second in np.arange(WARMUP_S, OVERLOAD_AT)
    )
    recovered_at = OVER_AT
    for second in np.arange(OVER_AT, END_AT):
        arrived = _arrived(table, second, second + 1.0)
        if arrived.is_rejected.any() or float(arrived.ttft_s.mean()) > usual_s:
            recovered_at = float(second) + 1.0
    return recovered_at - OVER_AT


def _arrived(table: RequestTable, begin: float, end: float) -> RequestTable:
    return table.where((table.arrived_at >= begin) & (table.arrived_at < end))


def _others(policy: str, *, flood: float) -> RequestTable:
    service = load_llmservice(CLUSTER)
    workload = generated_workload(service, load=FLOOD_LOAD, seed=0, min_run_s=FLOOD_RUN_S)
    workload = with_tenants(workload, Tenants(count=NUM_TENANTS, flood=flood), seed=0)
    ended: list[RequestTable] = []
    settings = {"max_wait_s": FLOOD_MAX_WAIT_S}
    study = Study(service=service, workload=workload, prefill_only=True, settings=settings)
    simulate(study, policy, on_end=ended.append)
    (table,) = ended
    return table.where((table.tenant != FLOODING) & (table.arrived_at >= FLOOD_WARMUP_S))
