"""`hortator bench core`: what a decision costs, on one core, without any I/O.

- events: a virtual run's events, recorded and handed to a fresh machine as fast as it takes them
  (`handle` and `next_wakeup`, as a driver calls them), 4 groups of 16 ranks; per second of processor time.
- release: a pass ends while 10 000 requests wait; the time of that one `handle`, which plans and commits
  a whole batch. `undisturbed`: the very same releases three times, each at its least, which leaves out what
  the rest of the machine did to one of them.
- scaling: time per placement of such releases at 64 groups of 16 ranks (1 024 ranks) against 4 groups.
- full: events and releases once more with all that a deployment has and a study of prefill leaves out: two
  decode groups of 64 ranks, decode reservations, and a hash for each block of each prompt (one of
  100 shared heads of 8 blocks, the rest its own) to look up in the ranks' prefix caches.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from hortator.cli.bench import result
from hortator.cli.console import stderr, stdout
from hortator.cli.progress import Progress
from hortator.scheduler.core.commands import Command, Dispatch
from hortator.scheduler.core.events import (
    Event,
    ForwardPassEnded,
    ForwardPassStarted,
    RankStateReported,
    RequestArrived,
    RequestFinished,
    WorkerJoined,
)
from hortator.scheduler.core.machine import SchedulerMachine
from hortator.scheduler.core.model import BlocksChanged, GroupSpec, Phase, RankLoads, SchedulerSettings
from hortator.scheduler.settings import SchedulerProcessSettings
from hortator.sim.cluster import GroupPlan, VirtualCluster
from hortator.sim.load import default_engine_seconds
from hortator.sim.results import Recorder
from hortator.sim.workload import LENGTHS, TraceRequest, generate, poisson_arrivals
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_model import GroupConfig

CHUNK_BUDGET_TOKENS = 8192
NUM_WAITING = 10_000
TOKENS_PER_BLOCK = 64
NUM_HEADS, HEAD_BLOCKS = 100, 8
"""Shared beginnings of prompts in the full variant, and how many blocks each has."""
NUM_SAME_RELEASES = 3
POLICIES = ("staggered", "staggered-plus")
TARGETS = {
    "staggered.events_per_s": ">= 50 000",
    "staggered.release_p99_ms": "<= 2",
    "staggered.scaling_1024_to_64": "<= 3",
}
BACKLOG_LENGTHS = "conversation"

OnProgress = Callable[[str], None]


def run(*, seed: int, json_file: Path | None, repeats: int = 5) -> None:
    """The command: measure, print a table, write the document."""
    with Progress(stderr()) as progress:
        measured = measure(seed=seed, repeats=repeats, on_progress=progress.line)
    figures = result.medians(measured)
    table = Table("figure", "median", "target", title=f"scheduler core, {repeats} repeats, seed {seed}")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.3f}" if value < 1000 else f"{value:,.0f}", TARGETS.get(name, ""))
    stdout().print(table)
    settings = {"num_waiting": NUM_WAITING, "chunk_budget_tokens": CHUNK_BUDGET_TOKENS}
    result.write(
        result.document(
            "core", seed=seed, settings=settings, figures=figures, repeats=measured, targets=TARGETS
        ),
        json_file,
    )


def measure(
    *, seed: int = 0, repeats: int = 5, on_progress: OnProgress = lambda _line: None
) -> list[dict[str, float]]:
    """One flat dict of figures per repeat: `<policy>.<figure>`."""
    gc_threshold = SchedulerProcessSettings.model_fields["gc_threshold"].default
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(gc_threshold, 20, 50)  # as the scheduler process does
    try:
        return [_repeat(seed, number, on_progress) for number in range(repeats)]
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _repeat(seed: int, number: int, on_progress: OnProgress) -> dict[str, float]:
    figures: dict[str, float] = {}
    for policy in POLICIES:
        on_progress(f"repeat {number + 1}: {policy}")
        figures.update({f"{policy}.{name}": value for name, value in figures_of(policy, seed=seed).items()})
    return figures


def figures_of(
    policy: str, *, seed: int, virtual_s: float = 60.0, num_releases: int = 600
) -> dict[str, float]:
    """All figures of one policy, measured once."""

    def costs_of(num_groups: int, *, is_full: bool = False) -> ReleaseCosts:
        return release_costs(
            policy, num_groups=num_groups, seed=seed, num_releases=num_releases, is_full=is_full
        )

    large = costs_of(64)
    smalls = [costs_of(4) for _ in range(NUM_SAME_RELEASES)]
    fulls = [costs_of(4, is_full=True) for _ in range(NUM_SAME_RELEASES)]
    small, full = smalls[0], fulls[0]
    return {
        "events_per_s": events_per_s(policy, seed=seed, virtual_s=virtual_s),
        "release_p50_ms": _percentile(small.releases_s, 50) * 1e3,
        "release_p99_ms": _percentile(small.releases_s, 99) * 1e3,
        "release_cpu_p99_ms": _percentile(small.releases_cpu_s, 99) * 1e3,
        "release_undisturbed_p99_ms": _undisturbed_p99_ms(smalls),
        "placements_per_release": small.num_placements / len(small.releases_s),
        "us_per_placement_64_ranks": small.us_per_placement,
        "us_per_placement_1024_ranks": large.us_per_placement,
        "scaling_1024_to_64": large.us_per_placement / small.us_per_placement,
        "full.events_per_s": events_per_s(policy, seed=seed, virtual_s=virtual_s, is_full=True),
        "full.release_p50_ms": _percentile(full.releases_s, 50) * 1e3,
        "full.release_p99_ms": _percentile(full.releases_s, 99) * 1e3,
        "full.release_undisturbed_p99_ms": _undisturbed_p99_ms(fulls),
        "full.placements_per_release": full.num_placements / len(full.releases_s),
    }


def events_per_s(policy: str, *, seed: int, virtual_s: float = 60.0, is_full: bool = False) -> float:
    """Events per second of processor time."""
    settings = _settings(policy, is_full=is_full)
    log = record_events(settings, seed=seed, virtual_s=virtual_s)
    machine = SchedulerMachine(settings)
    gc.collect()
    started = time.process_time()
    for now, event in log:
        machine.handle(event, now)
        machine.next_wakeup()
    return len(log) / (time.process_time() - started)


def record_events(
    settings: SchedulerSettings, *, seed: int, virtual_s: float, load: float = 0.7
) -> list[tuple[float, Event]]:
    """The events of a virtual run over 4 prefill groups of 16 ranks.

    With `settings.decode_reservation` the full variant: decode groups, and prompts with block hashes.
    """
    log: list[tuple[float, Event]] = []

    def on_event(now: float, event: Event, commands: list[Command]) -> None:  # noqa: ARG001
        log.append((now, event))

    is_full = settings.decode_reservation
    prefill = _specs(4)
    plans = [_plan(spec) for spec in [*prefill, *(_decode_specs() if is_full else [])]]
    engine_seconds = default_engine_seconds(preset="deepseek-h800", dp_size=16)
    rate_per_s = load * len(prefill) / engine_seconds(1155)
    requests: Sequence[TraceRequest] = generate(
        lengths=LENGTHS["conversation"],
        arrivals=poisson_arrivals(rate_per_s=rate_per_s, duration_s=virtual_s),
        seed=seed,
    )
    if is_full:
        rng = random.Random(seed)
        requests = [
            replace(
                request,
                prefix_block_ids=_block_hashes(rng, number, request.num_prompt_tokens),
                prefix_block_tokens=TOKENS_PER_BLOCK,
            )
            for number, request in enumerate(requests)
        ]
    VirtualCluster(plans, settings, Recorder(), on_event=on_event).run(requests)
    return log


class ReleaseCosts:
    """Times of releases, each planning and committing one batch."""

    def __init__(self) -> None:
        self.releases_s: list[float] = []
        self.releases_cpu_s: list[float] = []
        self.num_placements = 0

    @property
    def us_per_placement(self) -> float:
        """Microseconds per placement, of processor time, from the median release and the mean batch."""
        return statistics.median(self.releases_cpu_s) * 1e6 / (self.num_placements / len(self.releases_s))


def _undisturbed_p99_ms(same: Sequence[ReleaseCosts]) -> float:
    """p99 of releases that were run several times, each at its least."""
    least_s = [min(times) for times in zip(*(costs.releases_s for costs in same), strict=True)]
    return _percentile(least_s, 99) * 1e3


def release_costs(
    policy: str, *, num_groups: int, seed: int, num_releases: int = 600, is_full: bool = False
) -> ReleaseCosts:
    """Keep 10 000 requests waiting and every group busy; end one pass after the other."""
    machine = SchedulerMachine(_settings(policy, is_full=is_full))
    specs = _specs(num_groups)
    idle = _loads(specs[0], 0)
    busy = _loads(specs[0], CHUNK_BUDGET_TOKENS)
    if is_full:
        for spec in _decode_specs():
            machine.handle(WorkerJoined(group=spec), 0.0)
            loads = _loads(spec, 0)
            machine.handle(
                RankStateReported(group_id=spec.group_id, included_dispatch_seq=0, loads=loads), 0.0
            )
    for spec in specs:
        machine.handle(WorkerJoined(group=spec), 0.0)
        cached = replace(idle, blocks_changed=_cached_heads(spec)) if is_full else idle
        machine.handle(RankStateReported(group_id=spec.group_id, included_dispatch_seq=0, loads=cached), 0.0)
        machine.handle(
            ForwardPassStarted(
                group_id=spec.group_id, forward_pass_id=1, included_dispatch_seq=0, loads=busy
            ),
            0.0,
        )
    rng = random.Random(seed)
    lengths = [
        request.num_prompt_tokens
        for request in generate(
            lengths=LENGTHS[BACKLOG_LENGTHS],
            arrivals=poisson_arrivals(rate_per_s=1000.0, duration_s=20.0),
            seed=seed,
        )
    ]
    costs = ReleaseCosts()
    now, arrived = 0.0, 0
    for turn in range(num_releases):
        while len(machine.waiting) < NUM_WAITING:
            arrived += 1
            length = rng.choice(lengths)
            machine.handle(
                RequestArrived(
                    request_id=f"r{arrived}",
                    num_prompt_tokens=length,
                    block_hashes=_block_hashes(rng, arrived, length) if is_full else (),
                ),
                now,
            )
        spec = specs[turn % num_groups]
        now += 0.5 / num_groups
        pass_id = turn // num_groups + 1
        seq = machine.fleet.groups[spec.group_id].last_seq
        ended = ForwardPassEnded(
            group_id=spec.group_id,
            forward_pass_id=pass_id,
            duration_s=0.5,
            included_dispatch_seq=seq,
            loads=idle,
            pass_prefill_tokens=busy.prefill_load_tokens,
        )
        started, cpu_started = time.perf_counter(), time.process_time()
        commands = machine.handle(ended, now)
        costs.releases_cpu_s.append(time.process_time() - cpu_started)
        costs.releases_s.append(time.perf_counter() - started)
        placed = [
            placement.request_id
            for command in commands
            if isinstance(command, Dispatch)
            for placement in command.batch.placements
        ]
        costs.num_placements += len(placed)
        machine.handle(
            ForwardPassStarted(
                group_id=spec.group_id,
                forward_pass_id=pass_id + 1,
                included_dispatch_seq=seq + 1,
                loads=busy,
            ),
            now,
        )
        for request_id in placed:
            machine.handle(RequestFinished(request_id=request_id), now)
    return costs


def _settings(policy: str, *, is_full: bool) -> SchedulerSettings:
    return SchedulerSettings(
        policy=policy,
        decode_reservation=is_full,
        max_waiting_requests=1_000_000,
        max_waiting_tokens=1 << 40,
        queue_timeout_s=3600.0,
    )


def _specs(num_groups: int) -> list[GroupSpec]:
    return [_spec(f"prefill-{index}", Phase.PREFILL, dp_size=16) for index in range(num_groups)]


def _decode_specs() -> list[GroupSpec]:
    """As in benchmarks/sim/clusters/prefill-4xEP16.yaml."""
    return [_spec(f"decode-{index}", Phase.DECODE, dp_size=64) for index in range(2)]


def _spec(group_id: str, phase: Phase, *, dp_size: int) -> GroupSpec:
    return GroupSpec(
        group_id=group_id,
        phase=phase,
        dp_size=dp_size,
        chunk_budget_tokens=CHUNK_BUDGET_TOKENS,
        kv_blocks_total=PassCost(dp_size=dp_size).kv_blocks_total(TOKENS_PER_BLOCK),
        max_batch_size=256,
    )


def _plan(spec: GroupSpec) -> GroupPlan:
    config = GroupConfig(
        dp_size=spec.dp_size, kv_blocks_total=spec.kv_blocks_total, max_batch_size=spec.max_batch_size
    )
    return GroupPlan(spec=spec, config=config, cost=PassCost(dp_size=spec.dp_size))


def _block_hashes(rng: random.Random, number: int, num_prompt_tokens: int) -> tuple[int, ...]:
    """Of each full block of the `number`-th prompt; `number` is below a million."""
    head = rng.randrange(NUM_HEADS)
    return tuple(
        _head_block(head, block) if block < HEAD_BLOCKS else 1_000_000 + number * 10_000 + block
        for block in range(num_prompt_tokens // TOKENS_PER_BLOCK)
    )


def _head_block(head: int, block: int) -> int:
    return head * HEAD_BLOCKS + block


def _cached_heads(spec: GroupSpec) -> tuple[BlocksChanged, ...]:
    """Every rank has the heads whose number is its own modulo the number of ranks."""
    return tuple(
        BlocksChanged(
            dp_rank=rank,
            stored=tuple(
                _head_block(head, block)
                for head in range(rank, NUM_HEADS, spec.dp_size)
                for block in range(HEAD_BLOCKS)
            ),
        )
        for rank in range(spec.dp_size)
    )


def _loads(spec: GroupSpec, tokens: int) -> RankLoads:
    zeros = (0,) * spec.dp_size
    return RankLoads(prefill_load_tokens=(tokens,) * spec.dp_size, batch_size=zeros, kv_blocks_used=zeros)


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]
