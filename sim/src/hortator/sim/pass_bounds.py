"""What no prefill pass can beat: the pieces that `lower_bound` is made of.

Three facts about `PassCost.prefill_s` carry everything (the tests try them on random passes). Let a pass run
n_d tokens and S_d attention pairs on rank d, N and P in all, n_d <= B.

1. *Monotone*: more tokens or pairs on any rank never make it shorter.
2. *Even is best*: it is at least `prefill_floor_s(N, P)`, because a maximum over ranks is at least the mean.
3. *Large is best*: both overlap variants are maxima of a + b n + c S with a, b, c >= 0, so k >= 1 times
   the tokens and pairs take at most k times as long; at a fixed mix S / n a token costs least at n = B.

Chunks of a prompt of L tokens have L^2 / 2 pairs in all however it is cut: q (prefix + q / 2) telescopes.

Where a minimum is taken numerically, it is over cells, whose lower corner has the least time and whose upper
one has the most work. By 1 that errs only downwards: finer cells give tighter bounds, not truer ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hortator.sim.workload import Floats, Ints
from hortator.worker.engines.simulated.cost import PassCost

_NUM_MIXES = 4096
_TOKENS_CELL = 1.06
_RATE_CELL = 1.01
"""Ratios of the edges of a cell: of the tokens of a pass, and of its work per token."""
_SMALL_SHARE = 1 / 128
"""Of a chunk budget: cells of fewer tokens are not told apart."""
_CUTS_PER_BUDGET = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A linear measure of prefill that no EP group does faster than one a second."""

    per_token: float
    per_pair: float

    def of(self, num_tokens: Floats | Ints | float) -> Floats:
        """Of whole prompts: the least group-seconds they can take."""
        tokens = np.asarray(num_tokens, dtype=np.float64)
        return self.per_token * tokens + self.per_pair * 0.5 * tokens**2


def best_work(cost: PassCost, *, budget: int, lengths: Ints) -> Work:
    """The measure of this kind that charges most for these prompts.

    With y = P / N pairs per token (less than the longest prompt has tokens), a pass takes at least N h(y),
    h(y) = floor of the full pass / its tokens, by facts 2 and 3. So any line a + b y under h is such a
    measure; the best for prompts with y* pairs per token is the lower convex hull of h at y*.
    """
    full = float(cost.dp_size * budget)
    edges = np.linspace(0.0, float(lengths.max()), _NUM_MIXES + 1)
    times = np.array([cost.prefill_floor_s(full, full * y) / full for y in edges[:-1].tolist()])
    tokens = lengths.astype(np.float64)
    mix = float(0.5 * (tokens**2).sum() / tokens.sum())
    hull: list[tuple[float, float]] = []
    for point in zip(edges[1:].tolist(), times.tolist(), strict=True):
        while len(hull) > 1 and _turns_down(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    index = min(max(1, int(np.searchsorted([y for y, _ in hull], mix))), len(hull) - 1)
    (y0, t0), (y1, t1) = hull[index - 1], hull[index]
    per_pair = (t1 - t0) / (y1 - y0)
    per_token = t0 - per_pair * y0
    if per_token < 0.0:
        return Work(per_token=0.0, per_pair=float((times / edges[1:]).min()))
    # A billionth off, so that rounding cannot lift the line above the model.
    return Work(per_token=per_token * (1 - 1e-9), per_pair=per_pair * (1 - 1e-9))


def _turns_down(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class SoloTimes:
    """Least seconds in passes of each of some lengths, alone on a group."""

    least_s: Floats
    """However cut."""
    cut_s: Floats
    """In two passes or more."""


def solo_times(cost: PassCost, *, budget: int, lengths: Ints) -> SoloTimes:
    """Shortest path over the places where a prompt may be cut, with at most `budget` tokens a pass.

    A prompt of at most `budget` tokens may run in one pass; its time is exact. Cuts are known by their cell
    of a grid only; a pass between two cells is charged the least tokens and the least prefix it can have.
    """
    cell = max(1, budget // _CUTS_PER_BUDGET)
    one_token_s = _alone_s(cost, 0, 1)
    num_cells = int(lengths.max()) // cell + 1
    least = np.full(num_cells, np.inf)  # to compute the first p tokens, p in the cell
    cut = np.full(num_cells, np.inf)
    for end in range(num_cells):
        single = _alone_s(cost, 0, max(1, end * cell)) if end * cell <= budget else np.inf
        cut[end] = single + one_token_s  # the first cut in the same cell as the end
        for start in range(end - 1, -1, -1):
            tokens = (end - start - 1) * cell + 1
            if tokens > budget:
                break
            cut[end] = min(cut[end], least[start] + _alone_s(cost, start * cell, tokens))
        least[end] = min(single, cut[end])
    cut_s = cut[lengths // cell]
    whole = np.array([_alone_s(cost, 0, n) if n <= budget else np.inf for n in lengths.tolist()])
    return SoloTimes(least_s=np.minimum(whole, cut_s), cut_s=cut_s)


def _alone_s(cost: PassCost, prefix: int, tokens: int) -> float:
    return cost.prefill_s([tokens], [tokens * (prefix + 0.5 * tokens)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Which passes are worth running: for each of some durations, the least seconds per unit of work."""

    seconds: Floats
    """Ascending; a pass is at least as long as the first."""
    per_work: Floats
    """Descending, never under 1: a pass shorter than `seconds[i + 1]` is not better than `per_work[i]`."""


def frontier(
    cost: PassCost, work: Work, *, budget: int, longest: int, rank_n: int = 0, rank_n_at_most: int = 0
) -> Frontier:
    """The passes that hold a whole prompt of `rank_n` to `rank_n_at_most` tokens and up to D x budget others.

    The others are x tokens with x y pairs, 0 <= y < `longest`, spread as well as can be. In the cell from x
    to x' the time per work has two bounds: that of its corners, and by fact 3 that of the pass x' / x times
    as large, whose prompt is that much larger: it is no shorter than one of x' others with this prompt.
    """
    own_pairs = 0.5 * rank_n**2
    own_work = float(work.of(rank_n_at_most))
    origin = rank_n + _SMALL_SHARE * budget
    tokens = _edges(origin, origin + cost.dp_size * budget, _TOKENS_CELL) - origin
    if work.per_pair > 0.0:
        least_rate = max(work.per_token, 1e-3 * work.per_pair)
        rates = _edges(least_rate, work.per_token + work.per_pair * longest, _RATE_CELL)
        mixes = np.maximum(0.0, (rates - work.per_token) / work.per_pair)
        mixes[0] = 0.0
    else:
        rates, mixes = np.array([work.per_token] * 2), np.array([0.0, float(longest)])
    times = np.array(
        [
            [
                cost.prefill_floor_s(rank_n + x, own_pairs + x * y, rank_n=rank_n, rank_pairs=own_pairs)
                for y in mixes[:-1].tolist()
            ]
            for x in tokens.tolist()
        ]
    )
    works = np.outer(tokens[1:], rates[1:])
    growth = tokens[1:] / np.maximum(tokens[:-1], 1e-300)
    per_work = np.maximum(times[:-1] / (own_work + works), times[1:] / (growth[:, None] * own_work + works))
    return _lowest(times[:-1].ravel(), np.maximum(1.0, per_work).ravel())


def _edges(least: float, most: float, ratio: float) -> Floats:
    """Edges of cells from `least` to `most`, each at most `ratio` times the one before."""
    most = max(most, least * ratio)
    return np.geomspace(least, most, 2 + int(np.log(most / least) / np.log(ratio)))


def _lowest(seconds: Floats, per_work: Floats) -> Frontier:
    order = np.lexsort((per_work, seconds))
    seconds, per_work = seconds[order], per_work[order]
    keep: NDArray[np.bool_] = np.ones(len(order), dtype=np.bool_)
    keep[1:] = per_work[1:] < np.minimum.accumulate(per_work)[:-1]
    return Frontier(seconds=seconds[keep], per_work=per_work[keep])
