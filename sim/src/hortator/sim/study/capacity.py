"""Capacity: the highest load at which a policy keeps latency limits, found by bisection.

A load is kept when the run is stable, nothing was rejected, and p99 TTFT and p99 ITL are within their limits.
Loads are tried on a geometric grid between two ends, so every search of a setup tries the same loads and the
answer does not depend on what was found before; the grid's step is the resolution. Policies compared at their
own capacity are compared *at equal p99 TTFT and ITL*: the throughput there is what the limits cost each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What p99 may be, in seconds."""

    ttft_p99_s: float
    itl_p99_s: float = float("inf")

    def keeps(self, figures: Figures) -> bool:
        """Whether a run of the simulator kept them."""
        return (
            figures["stable"]
            and not figures["rejected"]
            and figures["ttft_s"]["p99"] <= self.ttft_p99_s
            and figures["itl_s"]["p99"] <= self.itl_p99_s
        )

    def describe(self) -> str:
        """For people."""
        itl = "" if self.itl_p99_s == float("inf") else f", p99 ITL <= {1000 * self.itl_p99_s:g} ms"
        return f"p99 TTFT <= {self.ttft_p99_s:g} s{itl}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Loads from `low` by equal factors up to `high`.

    Raises:
        ValueError: ends that are not positive and ascending, or fewer than two loads.
    """

    low: float
    high: float
    num_loads: int

    def __post_init__(self) -> None:
        if not 0.0 < self.low < self.high:
            raise ValueError(f"low, high: got {self.low:g}, {self.high:g} (allowed: 0 < low < high)")
        if self.num_loads < 2:
            raise ValueError(f"num_loads: got {self.num_loads} (allowed: 2 or more)")

    @property
    def step(self) -> float:
        """Factor between neighbours."""
        return float((self.high / self.low) ** (1.0 / (self.num_loads - 1)))

    def load(self, index: int) -> float:
        """The load of that place, rounded to what people can type."""
        return float(f"{self.low * self.step**index:.4g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a search found."""

    load: float | None
    """The highest load that was kept; None: not even the lowest."""
    figures: Figures | None
    """Of that load."""
    is_at_top: bool
    """Even the highest load was kept: the capacity is at least this."""
    tried: Mapping[float, bool]
    """Loads and whether they were kept."""


def search(grid: Grid, limits: Limits, simulate: Callable[[float], Figures]) -> Capacity:
    """Bisect the grid; about log2(num_loads) runs. Assumes that a load above one not kept is not kept."""
    tried: dict[float, bool] = {}
    best: tuple[float, Figures] | None = None
    kept, lost = -1, grid.num_loads
    while lost - kept > 1:
        middle = (kept + lost) // 2
        load = grid.load(middle)
        figures = simulate(load)
        tried[load] = limits.keeps(figures)
        if tried[load]:
            kept, best = middle, (load, figures)
        else:
            lost = middle
    return Capacity(
        load=None if best is None else best[0],
        figures=None if best is None else best[1],
        is_at_top=kept == grid.num_loads - 1,
        tried=tried,
    )
