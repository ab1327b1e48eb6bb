"""Load: how much of its prefill capacity a cluster is asked for, as one number that policies cannot bend.

    load = sum over requests of engine-seconds(request) / (groups x wall seconds)

Engine-seconds of a request with a prompt of L tokens, on an EP group of R ranks: take a *full balanced
pass*, in which every rank computes 8,192 tokens of prompts of exactly that length (so each rank carries the
quadratic attention of 8192 / L whole prompts: S = 8192 * L / 2 token pairs; a prompt longer than that
spreads over several passes), with the faster of both overlap variants and the engine's default expert
skew. The request is charged its share of the tokens:

    engine-seconds(L) = pass_seconds(8192 tokens and S pairs on each of R ranks) * L / (R * 8192)

So load 1 would keep every group busy without pause in perfect passes; no scheduler reaches it, because passes
are never all full and balanced. Prefix hits are not subtracted: load speaks of the trace, not of a cache.

Wall seconds of a recorded trace of n requests are its *period*: span * n / (n - 1), the span plus one mean
gap. A trace is rescaled by stretching its time, and made long enough by repeating whole periods (tiles), so
load and mean rate are exact whatever the length of the run. Drawn arrivals are drawn for exactly as many
requests within exactly that wall; a run of diurnal arrivals is whole swings, and its load the mean over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hortator.sim.arrivals import RECORDED, ArrivalMode, Arrivals
from hortator.sim.streams import RetimedRequests
from hortator.sim.workload import TraceRequest
from hortator.worker.engines.simulated.cost import PassCost

FULL_PASS_TOKENS = 8192
"""Tokens per rank of the full balanced pass that defines load, whatever chunk budget is simulated."""
MIN_RUN_S = 1200.0
"""Every simulated point lasts at least 20 virtual minutes."""

EngineSeconds = Callable[[int], float]
"""Prompt tokens of a request -> engine-seconds of one EP group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTrace:
    """Requests that offer a known load."""

    requests: Sequence[TraceRequest]
    load: float
    wall_s: float
    """Length of the run: requests arrive in [0, wall_s)."""
    num_tiles: int
    """How often the trace was repeated."""
    arrivals: Arrivals
    """As drawn: the period of DIURNAL is the one that fits the wall."""
    lengths: str | None = None
    """The name of generated lengths; None: a trace's own."""


def engine_seconds_of(cost: PassCost) -> EngineSeconds:
    """The definition above, for the EP group that `cost` describes. Remembers lengths it has seen."""
    known: dict[int, float] = {}

    def engine_seconds(num_prompt_tokens: int) -> float:
        seconds = known.get(num_prompt_tokens)
        if seconds is None:
            pairs = 0.5 * num_prompt_tokens * FULL_PASS_TOKENS
            pass_s = cost.prefill_s([FULL_PASS_TOKENS] * cost.dp_size, [pairs] * cost.dp_size)
            seconds = pass_s * num_prompt_tokens / (cost.dp_size * FULL_PASS_TOKENS)
            known[num_prompt_tokens] = seconds
        return seconds

    return engine_seconds


def default_engine_seconds(
    *, preset: str, dp_size: int, ep_size: int | None = None, gpus_per_node: int = 8
) -> EngineSeconds:
    """`engine_seconds_of` with the overlap and expert skew of the definition, whatever the manifest says.

    Raises:
        ValueError: an unknown preset, or sizes that do not fit together.
    """
    return engine_seconds_of(PassCost(preset, dp_size=dp_size, ep_size=ep_size, gpus_per_node=gpus_per_node))


def period_of(requests: Sequence[TraceRequest]) -> float:
    """Wall seconds that a trace stands for: its span plus one mean gap.

    Raises:
        ValueError: fewer than two requests, or all at one instant: there is no rate in that.
    """
    if len(requests) < 2:
        raise ValueError(f"a trace of {len(requests)} requests has no arrival rate (allowed: 2 or more)")
    span_s = requests[-1].arrived_at - requests[0].arrived_at
    if span_s <= 0:
        raise ValueError("all requests arrive at one instant, which is no arrival rate")
    return span_s * len(requests) / (len(requests) - 1)


def load_of(
    requests: Sequence[TraceRequest],
    *,
    num_groups: int,
    engine_seconds: EngineSeconds,
    wall_s: float | None = None,
) -> float:
    """The load that these requests offer to `num_groups` groups within `wall_s` (default: their period)."""
    wall_s = period_of(requests) if wall_s is None else wall_s
    return _total_engine_seconds(requests, engine_seconds) / (num_groups * wall_s)


def at_load(
    requests: Sequence[TraceRequest],
    *,
    load: float,
    num_groups: int,
    engine_seconds: EngineSeconds,
    arrivals: Arrivals = RECORDED,
    min_run_s: float = MIN_RUN_S,
    seed: int = 0,
) -> LoadedTrace:
    """Rescale a trace to a load and repeat it until a run lasts at least `min_run_s`.

    Args:
        requests: in order of arrival.
        load: above 0; 1 is the limit that no scheduler reaches.
        num_groups: prefill (or aggregated) EP groups.
        engine_seconds: see the module docstring; the same for every policy that is compared.
        arrivals: RECORDED stretches the trace's times, the others draw new ones: requests keep their order
            and lengths. DIURNAL is fitted: its period becomes the nearest that divides the run.
        min_run_s: shortest run, virtual seconds; with DIURNAL at least a period, and made whole ones.
        seed: of what is drawn.

    Raises:
        ValueError: a load that is not positive, RECORDED times that hold no rate, or a `min_run_s` of less
            than a period of DIURNAL.
    """
    if not load > 0:
        raise ValueError(f"load must be above 0, got {load}")
    if not requests:
        raise ValueError("no requests")
    period_s = _total_engine_seconds(requests, engine_seconds) / (num_groups * load)
    num_tiles = max(1, int(np.ceil(arrivals.shortest_run_s(min_run_s) / period_s)))
    wall_s = num_tiles * period_s
    arrivals = arrivals.fitted_to(wall_s)
    is_recorded = arrivals.mode is ArrivalMode.RECORDED
    return LoadedTrace(
        requests=RetimedRequests(
            requests=requests,
            num_tiles=num_tiles,
            period_s=period_s,
            first_at=requests[0].arrived_at,
            stretch=period_s / period_of(requests) if is_recorded else 1.0,
            num_blocks=1 + max(max(request.prefix_block_ids, default=-1) for request in requests),
            arrivals=arrivals,
            seed=seed,
        ),
        load=load,
        wall_s=wall_s,
        num_tiles=num_tiles,
        arrivals=arrivals,
    )


def _total_engine_seconds(requests: Sequence[TraceRequest], engine_seconds: EngineSeconds) -> float:
    return sum(engine_seconds(request.num_prompt_tokens) for request in requests)
