"""Choosing a token. Randomness is a function of (seed, absolute position) only.

Greedy takes the largest logit, the lowest id among equals. Otherwise temperature, then top-k, then
top-p cut the candidates, and the choice is

    argmax over candidates of  logit / temperature + gumbel(seed, position, token)

which draws from their softmax. Each token's noise comes from a hash, not from a generator's
state or a sorted order, so rounding in the last digit of a logit changes nothing unless two candidates
nearly tie, and a resumed request draws what it would have drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hortator.worker.engines.torch_moe.plan import SamplePlan

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def choose(logits: npt.NDArray[np.float32], plan: SamplePlan) -> int:
    """The token id to take from logits [vocab]."""
    values = logits.astype(np.float64)
    if plan.banned_token_ids:
        values[list(plan.banned_token_ids)] = -np.inf
    if plan.temperature <= 0:
        return int(np.argmax(values))
    values = values / plan.temperature
    candidates = _candidates(values, plan.top_k, plan.top_p)
    noise = gumbel(plan.seed, plan.position, candidates.astype(np.uint64))
    return int(candidates[np.argmax(values[candidates] + noise)])


def _candidates(values: npt.NDArray[np.float64], top_k: int, top_p: float) -> npt.NDArray[np.int64]:
    """Ids that survive top-k and top-p; at least one does. Those equal to the last survivor survive too."""
    num_kept = int(np.count_nonzero(np.isfinite(values)))
    if top_k > 0:
        num_kept = min(num_kept, top_k)
    best = np.sort(values)[::-1][:num_kept]
    if top_p < 1:
        weights = np.exp(best - best[0])
        before = np.cumsum(weights) - weights
        num_kept = max(1, int(np.count_nonzero(before < top_p * weights.sum())))
    return np.flatnonzero(values >= best[num_kept - 1])


def gumbel(seed: int, position: int, tokens: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise for each token id, the same on every rank."""
    key = _mix(_mix(seed & _MASK) ^ (position & _MASK))
    state = np.uint64(key) + tokens * np.uint64(_GOLDEN)  # wraps modulo 2^64
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = state ^ (state >> np.uint64(31))
    uniform = ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    noise: npt.NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise


def _mix(value: int) -> int:
    """The SplitMix64 output function on one 64-bit integer."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
