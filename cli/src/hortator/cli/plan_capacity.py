"""`hortator plan-capacity`: how to split GPUs into groups, what they will serve, and what limits it.

First the arithmetic for every layout (`sim.sizing`), then the simulator for the best of them: the highest
rate that keeps the limits on p99, by bisection, and which chunk budget serves it best. What is written as a
manifest is what was simulated, with the engine's backend changed to the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import yaml
from rich.table import Table

from hortator.api.v1alpha1 import KvCacheDtype
from hortator.cli.bench import result
from hortator.cli.console import stderr, stdout
from hortator.cli.errors import CommandError
from hortator.cli.recommend import recommended
from hortator.cli.simulate import parse_policies, progress_bar
from hortator.cli.study_pool import run_all
from hortator.cli.workload_options import WorkloadOptions, make_workload
from hortator.sim.arrivals import Arrivals
from hortator.sim.simulate import Study, generated_workload, simulate
from hortator.sim.sizing import Estimate, Groups, Layout, Shape, estimate, layouts, manifest, service_of
from hortator.sim.slo import parse_slo
from hortator.sim.study.capacity import Grid, Limits, search
from hortator.sim.traces import TraceError, read_trace
from hortator.sim.workload import TraceRequest
from hortator.worker.engines.simulated.cost import PassCost

MODELS = {"deepseek-v3": "deepseek-h800"}
"""Models with a cost model of their passes, and its preset."""
COMMON_BUDGET = 8192
BUDGETS = (2048, 4096, COMMON_BUDGET)
LOWEST, HIGHEST, NUM_RATES = 0.4, 1.0, 12
"""Shares of an estimate that are tried: by the arithmetic no more can be served."""

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What every process of the pool is told."""

    estimates: tuple[Estimate, ...]
    requests: tuple[TraceRequest, ...] | None
    options: WorkloadOptions
    arrivals: Arrivals
    limits: Limits
    policy: str
    seed: int
    chunked_prefill: bool
    kv_cache_dtype: KvCacheDtype
    budgets: tuple[int, ...]
    """Chunk budgets to choose from; layouts are compared at the last."""


def run(
    *,
    num_gpus: int,
    model: str,
    trace: Path | None,
    options: WorkloadOptions,
    slo: str,
    policy: str,
    num_tried: int,
    chunked_prefill: bool,
    kv_dtype: str,
    seed: int,
    out: Path | None,
    json_file: Path | None,
) -> None:
    """Estimate, simulate, print, and write the manifest.

    Raises:
        CommandError: an option is wrong, too few GPUs, or no layout keeps the limits.
    """
    if model not in MODELS:
        raise CommandError(f"--model: got {model!r} (allowed: {', '.join(MODELS)})")
    names = parse_policies(policy)
    if len(names) != 1:
        raise CommandError(f"--policy: got {policy!r} (allowed: one policy)")
    limits = _limits(slo)
    kv_cache_dtype = _kv_cache_dtype(kv_dtype)
    arrivals = options.checked(has_trace=trace is not None)
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise CommandError(f"--out {out}: not a file that can be written")
    try:
        possible = layouts(num_gpus)
    except ValueError as error:
        raise CommandError(f"--gpus: {error}") from None
    requests = None if trace is None else _read(trace, seed=seed, options=options)
    shape = Shape.of(_sample(options, seed=seed) if requests is None else requests)
    estimates = sorted(
        (
            estimate(layout, shape, itl_s=limits.itl_p99_s, kv_cache_dtype=kv_cache_dtype)
            for layout in possible
        ),
        key=lambda found: -found.requests_per_s,
    )
    to_try = tuple(found for found in estimates if found.requests_per_s > 0)[:num_tried]
    if not to_try:
        itl = f"itl={1000 * limits.itl_p99_s:g}ms"
        raise CommandError(f"--slo: no layout of {num_gpus} GPUs steps within {itl} by the cost model")
    asked = _Request(
        estimates=to_try,
        requests=requests,
        options=options,
        arrivals=arrivals,
        limits=limits,
        policy=names[0],
        seed=seed,
        chunked_prefill=chunked_prefill,
        kv_cache_dtype=kv_cache_dtype,
        budgets=BUDGETS if chunked_prefill else _indivisible(max(shape.prompts)),
    )
    served = _simulate(asked)
    best = max(range(len(to_try)), key=lambda index: float(served[index]["requests_per_s"]))
    if not served[best]["requests_per_s"]:
        raise CommandError(
            f"--slo: not even {LOWEST:g} of the estimate keeps {limits.describe()} on any of the "
            f"{len(to_try)} best layouts; allow more, or more GPUs"
        )
    budget, budgets = _budget(asked, best, float(served[best]["load"]))
    plan = manifest(
        to_try[best].layout,
        name=model,
        chunk_budget_tokens=budget,
        policy=names[0],
        backend="TensorRTLLM",
        chunked_prefill=chunked_prefill,
        kv_cache_dtype=kv_cache_dtype,
    )
    if json_file is None or str(json_file) != "-":
        stdout().print(_table(estimates, served))
        stdout().print(_words(to_try[best], served[best], budget, asked, num_gpus), markup=False)
    if out is not None:
        out.write_text(yaml.safe_dump(plan, sort_keys=False, width=110))
        stderr().print(f"{out}: written; `hortator validate -f {out}` checks what you change", markup=False)
    result.write(_document(estimates, served, best, budget, budgets, asked, num_gpus, plan), json_file)


def _indivisible(longest: int) -> tuple[int, ...]:
    """For engines that do not cut prompts: the least power of two that takes all, and twice it."""
    least = 1 << max(10, (longest - 1).bit_length())
    return (least, 2 * least)


def _limits(slo: str) -> Limits:
    try:
        given = parse_slo(slo).limits()
    except ValueError as error:
        raise CommandError(f"--slo: {error}") from None
    if set(given) != {"ttft", "itl"}:
        raise CommandError(f"--slo: got {slo!r} (allowed: ttft and itl, like ttft=2s,itl=50ms)")
    return Limits(ttft_p99_s=given["ttft"], itl_p99_s=given["itl"])


def _kv_cache_dtype(given: str) -> KvCacheDtype:
    for allowed in get_args(KvCacheDtype):
        if given == allowed:
            found: KvCacheDtype = allowed
            return found
    raise CommandError(f"--kv-dtype: got {given!r} (allowed: {', '.join(get_args(KvCacheDtype))})")


def _read(trace: Path, *, seed: int, options: WorkloadOptions) -> tuple[TraceRequest, ...]:
    try:
        return tuple(read_trace(trace, skip_bad=options.skip_bad, seed=seed).requests)
    except TraceError as error:
        raise CommandError(str(error)) from None


def _sample(options: WorkloadOptions, *, seed: int) -> Sequence[TraceRequest]:
    """Generated requests to take the mean of; the rate is of no matter."""
    service = service_of(
        Layout(entry=Groups(num_groups=1, ep_size=16), decode=None),
        chunk_budget_tokens=COMMON_BUDGET,
        policy="staggered",
        chunked_prefill=True,
    )
    lengths = options.lengths or "conversation"
    return generated_workload(service, load=0.5, lengths=lengths, seed=seed, min_run_s=60.0).requests


def _simulate(asked: _Request) -> list[Figures]:
    names = [str(index) for index in range(len(asked.estimates))]
    with progress_bar(len(names), "layouts, each at several rates", stderr()) as advance:
        found = asyncio.run(run_all(_search_layout, asked, names, on_done=advance))
    return [found[name] for name in names]


def _search_layout(asked: _Request, name: str) -> Figures:
    """In a process of the pool: the highest rate of a layout within the limits; 0: none that was tried."""
    wanted = asked.estimates[int(name)]
    top = wanted.requests_per_s / wanted.prefill_rps
    grid = Grid(low=LOWEST * top, high=HIGHEST * top, num_loads=NUM_RATES)
    found = search(grid, asked.limits, lambda load: _run(asked, wanted, load, asked.budgets[-1]))
    if found.load is None or found.figures is None:
        return {"load": None, "requests_per_s": 0.0}
    return {"load": found.load, **found.figures}


def _run(asked: _Request, wanted: Estimate, load: float, budget: int) -> Figures:
    service = service_of(
        wanted.layout,
        chunk_budget_tokens=budget,
        policy=asked.policy,
        chunked_prefill=asked.chunked_prefill,
        kv_cache_dtype=asked.kv_cache_dtype,
    )
    workload = make_workload(
        service, asked.requests, asked.options.at(load), arrivals=asked.arrivals, seed=asked.seed
    )
    figures = simulate(Study(service=service, workload=workload, seed=asked.seed), asked.policy)
    return {**figures, "requests_per_s": len(workload.requests) / workload.wall_s}


def _budget(asked: _Request, best: int, load: float) -> tuple[int, dict[int, Figures]]:
    """The chunk budget to take for the layout at its rate."""
    with progress_bar(len(asked.budgets), "chunk budgets", stderr()) as advance:
        found = asyncio.run(
            run_all(
                partial(_figures_at, best, load),
                asked,
                [str(budget) for budget in asked.budgets],
                on_done=advance,
            )
        )
    figures = {int(name): figure for name, figure in found.items()}
    kept = {budget: figure for budget, figure in figures.items() if asked.limits.keeps(figure)}
    return recommended(kept) or asked.budgets[-1], figures


def _figures_at(best: int, load: float, asked: _Request, budget: str) -> Figures:
    """In a process of the pool; the budget is the name of what is done there."""
    return _run(asked, asked.estimates[best], load, int(budget))


def _table(estimates: Sequence[Estimate], served: Sequence[Figures]) -> Table:
    out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    out.add_column("layout", no_wrap=True)
    out.add_column("at most req/s", justify="right", no_wrap=True)
    out.add_column("limited by", no_wrap=True)
    for header in ("simulated req/s", "TTFT p99 (ms)", "ITL p99 (ms)", "tokens/s out"):
        out.add_column(header, justify="right", no_wrap=True)
    for index, found in enumerate(estimates):
        cells = [found.layout.describe(), f"{found.requests_per_s:.1f}", found.limit]
        if index < len(served) and found.requests_per_s > 0:
            figures = served[index]
            if figures["requests_per_s"]:
                cells += [
                    f"{figures['requests_per_s']:.1f}",
                    f"{1000 * figures['ttft_s']['p99']:.0f}",
                    f"{1000 * figures['itl_s']['p99']:.0f}",
                    f"{figures['output_tokens_per_s']:,.0f}",
                ]
            else:
                cells += [f"under {LOWEST * found.requests_per_s:.1f}", "", "", ""]
        out.add_row(*cells, *[""] * (7 - len(cells)))
    return out


def _words(best: Estimate, served: Figures, budget: int, asked: _Request, num_gpus: int) -> str:
    rate = float(served["requests_per_s"])
    return (
        f"Take {best.layout.describe()}, chunkBudgetTokens {budget}: {rate:.1f} requests/s within "
        f"{asked.limits.describe()} with {asked.policy}, {rate / num_gpus:.2f} per GPU. By the arithmetic "
        f"{best.limit} would end it at {best.requests_per_s:.1f}/s; the rest is waiting, which the limits "
        f"end first.\n{_memory_words(best.layout, asked.kv_cache_dtype)}\n"
        "Modelled H800, modelled DeepSeek-V3: measure before you promise."
    )


def _memory_words(layout: Layout, kv_cache_dtype: KvCacheDtype) -> str:
    return "\n".join(
        f"Memory at EP{size}: {cost.memory().describe()}, {cost.kv_tokens_total():,} tokens a rank of "
        f"{cost.kv_bytes_per_token / 1000:.1f} KB (kvCacheDtype {kv_cache_dtype})."
        for size, cost in _costs(layout, kv_cache_dtype).items()
    )


def _costs(layout: Layout, kv_cache_dtype: KvCacheDtype) -> dict[int, PassCost]:
    """By EP size."""
    sizes = [layout.entry.ep_size, *([] if layout.decode is None else [layout.decode.ep_size])]
    return {size: PassCost(dp_size=size, kv_cache_dtype=kv_cache_dtype) for size in sorted(set(sizes))}


def _document(
    estimates: Sequence[Estimate],
    served: Sequence[Figures],
    best: int,
    budget: int,
    budgets: Mapping[int, Figures],
    asked: _Request,
    num_gpus: int,
    plan: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "gpus": num_gpus,
        "policy": asked.policy,
        "seed": asked.seed,
        "kv_cache_dtype": asked.kv_cache_dtype,
        "limits": {"ttft_p99_s": asked.limits.ttft_p99_s, "itl_p99_s": asked.limits.itl_p99_s},
        "machine": result.machine(),
        "layouts": [
            {
                "layout": found.layout.describe(),
                "estimate": {
                    "requests_per_s": found.requests_per_s,
                    "limit": found.limit,
                    "prefill_rps": found.prefill_rps,
                    "decode_rps": found.decode_rps,
                },
                "simulated": dict(served[index]) if index < len(served) else None,
            }
            for index, found in enumerate(estimates)
        ],
        "chosen": {
            "layout": asked.estimates[best].layout.describe(),
            "chunk_budget_tokens": budget,
            "requests_per_s": served[best]["requests_per_s"],
            "memory": {
                f"EP{size}": {
                    **cost.memory()._asdict(),
                    "kv_gb": cost.memory().kv_gb,
                    "kv_tokens": cost.kv_tokens_total(),
                }
                for size, cost in _costs(asked.estimates[best].layout, asked.kv_cache_dtype).items()
            },
            "budgets": {str(name): dict(figure) for name, figure in budgets.items()},
        },
        "manifest": dict(plan),
    }
