"""`hortator bench simulator`: how fast virtual time is, on one core.

- rate: requests per minute of processor time, prefill only, 8 EP groups of 16 ranks at load 0.7 with
  conversation lengths, for an immediate policy and both staggered ones.
- cost per event of the scheduler (whole simulation over events) at 4, 16 and 64 groups of 16 ranks, and with
  a queue of hundreds (load 0.95) against tens (load 0.5).
- large: a million requests over 63 groups (1 008 ranks); minutes, and how the memory of the process grew
  while all rows of ended requests had become sums, to its highest from its first: what a run of any length
  takes beyond that. (Of fewer requests, which all stay rows: from a fifth of the arrivals on.) `memory_mib`
  is the highest of the whole run, the rows included.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.table import Table

from hortator.api.files import load_llmservice
from hortator.cli.bench import result
from hortator.cli.console import stderr, stdout
from hortator.cli.errors import CommandError
from hortator.cli.progress import Progress
from hortator.sim.simulate import Study, generated_workload, simulate, with_entry_role
from hortator.sim.tally import MAX_EXACT_REQUESTS

CLUSTER = Path("benchmarks/sim/clusters/prefill-4xEP16.yaml")
POLICIES = ("immediate-least-delay", "staggered", "staggered-plus")
NUM_LARGE_GROUPS = 63
NUM_LARGE_REQUESTS = 1_000_000
LARGE_POLICY = "staggered-plus"
LATEST_SHARE = 0.8
"""Of arrivals: growth that is watched from later on says little."""
TARGETS = {
    "<policy>.requests_per_minute": ">= 200 000",
    "large.minutes": "< 15",
    "large.memory_growth": "< 0.05",
}


def run(*, seed: int, num_large: int, repeats: int, json_file: Path | None, virtual_s: float = 120.0) -> None:
    """The command: measure, print a table, write the document."""
    if not CLUSTER.exists():
        raise CommandError(f"{CLUSTER}: not found; run this in the root of a Hortator checkout")
    with Progress(stderr()) as progress:
        measured = []
        for number in range(repeats):
            progress.line(f"repeat {number + 1}: rates and costs per event")
            measured.append(_rates(virtual_s, seed=seed) | _costs_per_event(2.0 * virtual_s, seed=seed))
        progress.line(f"{num_large:,} requests over {NUM_LARGE_GROUPS} groups")
        large = _large(num_large, seed=seed)
    figures = result.medians(measured) | large
    table = Table("figure", "median", title=f"simulator, {repeats} repeats, seed {seed}")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.3f}" if value < 1000 else f"{value:,.0f}")
    stdout().print(table)
    settings = {"cluster": str(CLUSTER), "large_policy": LARGE_POLICY, "policies": POLICIES}
    document = result.document(
        "simulator", seed=seed, settings=settings, figures=figures, repeats=measured, targets=TARGETS
    )
    result.write(document, json_file)


def _rates(virtual_s: float, *, seed: int) -> dict[str, float]:
    study = _study(num_groups=8, load=0.7, virtual_s=virtual_s, seed=seed)
    figures = {}
    for policy in POLICIES:
        started = time.process_time()
        simulate(study, policy)
        minutes = (time.process_time() - started) / 60.0
        figures[f"{policy}.requests_per_minute"] = len(study.workload.requests) / minutes
    return figures


def _costs_per_event(group_s: float, *, seed: int) -> dict[str, float]:
    """Microseconds of processor time per scheduler event."""
    figures = {}
    for name, num_groups, load in (
        ("ranks_64", 4, 0.7),
        ("ranks_256", 16, 0.7),
        ("ranks_1024", 64, 0.7),
        ("queue_short", 4, 0.5),
        ("queue_long", 4, 0.95),
    ):
        study = _study(num_groups=num_groups, load=load, virtual_s=group_s / num_groups, seed=seed)
        started = time.process_time()
        found = simulate(study, LARGE_POLICY)
        spent_s = time.process_time() - started
        figures[f"us_per_event.{name}"] = 1e6 * spent_s / int(str(found["events"]))
    return figures


def _large(num_requests: int, *, seed: int) -> dict[str, float]:
    rate_per_s = (
        len(_study(num_groups=NUM_LARGE_GROUPS, load=0.7, virtual_s=2.0, seed=seed).workload.requests) / 2.0
    )
    study = _study(num_groups=NUM_LARGE_GROUPS, load=0.7, virtual_s=num_requests / rate_per_s, seed=seed)
    simulated = len(study.workload.requests)
    is_summed_at = 1.1 * MAX_EXACT_REQUESTS / simulated
    since = is_summed_at if is_summed_at < LATEST_SHARE else 0.2
    resident: list[tuple[float, int]] = []

    def on_progress(share: float) -> None:
        resident.append((share, _resident_bytes()))

    started = time.perf_counter()
    found = simulate(study, LARGE_POLICY, on_progress=on_progress)
    minutes = (time.perf_counter() - started) / 60.0
    late = [in_memory for share, in_memory in resident if share >= since]
    growth = max(late) - late[0]
    return {
        "large.ranks": 16.0 * NUM_LARGE_GROUPS,
        "large.requests": float(simulated),
        "large.minutes": minutes,
        "large.us_per_event": 6e7 * minutes / int(str(found["events"])),
        "large.memory_growth": growth / late[0],
        "large.bytes_per_request": growth / ((1.0 - since) * simulated),
        "large.memory_mib": max(in_memory for _, in_memory in resident) / 2**20,
    }


def _study(*, num_groups: int, load: float, virtual_s: float, seed: int) -> Study:
    service = with_entry_role(load_llmservice(CLUSTER), replicas=num_groups)
    workload = generated_workload(service, load=load, seed=seed, min_run_s=virtual_s)
    return Study(service=service, workload=workload, seed=seed, prefill_only=True)


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise CommandError("/proc/self/status: has no VmRSS (this benchmark runs on Linux)")
