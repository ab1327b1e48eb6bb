"""`hortator bench policies`: the policies against each other in virtual time, on the same requests.

Four prefill groups of EP16 (`benchmarks/sim/clusters/prefill-4xEP16.yaml`, decode left out: TTFT is what
differs), conversation lengths, Poisson arrivals, at least 20 virtual minutes per point, several seeds. Every
policy of a point sees exactly the same requests. The ratio of a seed is policy / immediate-least-tokens.
`immediate-least-delay` stands beside them without make-up: it knows what `staggered` knows and cannot wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.table import Table

from hortator.api.files import load_llmservice
from hortator.cli.bench import result
from hortator.cli.console import stderr, stdout
from hortator.cli.errors import CommandError
from hortator.cli.progress import Progress
from hortator.sim.load import MIN_RUN_S
from hortator.sim.simulate import Study, generated_workload, simulate

CLUSTER = Path("benchmarks/sim/clusters/prefill-4xEP16.yaml")
BASELINE = "immediate-least-tokens"
POLICIES = (BASELINE, "immediate-least-delay", "staggered", "staggered-plus")
LOADS = (0.5, 0.7, 0.85)
TARGETS = {
    "staggered.<load>.mean_ratio": "<= 0.75",
    "staggered.<load>.p99_ratio": "<= 1.05",
}

Point = tuple[str, float, int]
"""(policy, load, seed)."""


def run(*, num_seeds: int, json_file: Path | None) -> None:
    """The command: measure, print a table, write the document."""
    if not CLUSTER.exists():
        raise CommandError(f"{CLUSTER}: not found; run this in the root of a Hortator checkout")
    seeds = range(num_seeds)
    points = [(policy, load, seed) for load in LOADS for seed in seeds for policy in POLICIES]
    figures_of: dict[Point, dict[str, Any]] = {}
    with Progress(stderr()) as progress, ProcessPoolExecutor(max_workers=2) as pool:
        futures = {pool.submit(simulate_point, point): point for point in points}
        for done, future in enumerate(as_completed(futures), 1):
            point = futures[future]
            figures_of[point] = future.result()
            progress.line(f"{done}/{len(points)} {point[0]} at load {point[1]:g}, seed {point[2]}")
    repeats = [_flat(figures_of, seed) for seed in seeds]
    figures = result.medians(repeats)
    stdout().print(_table(figures, figures_of, seeds))
    settings = {
        "cluster": str(CLUSTER),
        "prefill_only": True,
        "lengths": "conversation",
        "arrivals": "poisson",
        "loads": LOADS,
        "seeds": list(seeds),
        "min_run_s": MIN_RUN_S,
        "unstable": [list(point) for point, found in figures_of.items() if not found["stable"]],
    }
    document = result.document(
        "policies", seed=0, settings=settings, figures=figures, repeats=repeats, targets=TARGETS
    )
    result.write(document, json_file)


def simulate_point(point: Point) -> dict[str, Any]:
    """One policy at one load with one seed. The workload depends on load and seed only."""
    policy, load, seed = point
    service = load_llmservice(CLUSTER)
    workload = generated_workload(service, load=load, seed=seed)
    return simulate(Study(service=service, workload=workload, seed=seed, prefill_only=True), policy)


def _flat(figures_of: dict[Point, dict[str, Any]], seed: int) -> dict[str, float]:
    flat: dict[str, float] = {}
    for load in LOADS:
        baseline = figures_of[BASELINE, load, seed]["ttft_s"]
        for policy in POLICIES:
            found = figures_of[policy, load, seed]
            ttft = found["ttft_s"]
            values = {
                "ttft_mean_s": ttft["mean"],
                "ttft_p50_s": ttft["p50"],
                "ttft_p99_s": ttft["p99"],
                "mean_ratio": ttft["mean"] / baseline["mean"],
                "p99_ratio": ttft["p99"] / baseline["p99"],
                "prefill_tokens_per_s": found["prefill_tokens_per_s"],
                "chunk_utilization": found["chunk_utilization"],
                "balance_ratio": found["balance_ratio"],
            }
            flat.update({f"{policy}.{load:g}.{name}": value for name, value in values.items()})
    return flat


def _table(figures: dict[str, float], figures_of: dict[Point, dict[str, Any]], seeds: Sequence[int]) -> Table:
    table = Table(title=f"TTFT in virtual time, medians over {len(seeds)} seeds (ratio: to {BASELINE})")
    for heading in (
        "load",
        "policy",
        "mean s",
        "p50 s",
        "p99 s",
        "mean ratio",
        "p99 ratio",
        "worst seed",
        "util",
        "stable",
    ):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for load in LOADS:
        for policy in POLICIES:
            key = f"{policy}.{load:g}"
            worst = max(
                figures_of[policy, load, seed]["ttft_s"]["mean"]
                / figures_of[BASELINE, load, seed]["ttft_s"]["mean"]
                for seed in seeds
            )
            stable = all(figures_of[policy, load, seed]["stable"] for seed in seeds)
            table.add_row(
                f"{load:g}",
                policy,
                f"{figures[key + '.ttft_mean_s']:.3f}",
                f"{figures[key + '.ttft_p50_s']:.3f}",
                f"{figures[key + '.ttft_p99_s']:.3f}",
                f"{figures[key + '.mean_ratio']:.2f}",
                f"{figures[key + '.p99_ratio']:.2f}",
                f"{worst:.2f}",
                f"{figures[key + '.chunk_utilization']:.2f}",
                "yes" if stable else "UNSTABLE",
            )
        table.add_section()
    return table
