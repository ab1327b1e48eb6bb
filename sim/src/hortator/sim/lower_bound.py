"""How good any scheduler could be: a mean TTFT that none can go below, whatever it knows and decides.

The cluster is N prefill EP groups of D ranks; a pass runs at most B tokens a rank and takes what `PassCost`
says. A scheduler may know the future, cut prompts as it likes, stop and move them between passes, one chunk
of a prompt at a time; it serves all of them. Prefill only: no decode, and no prefix cache (a hit is work that
needs no doing). Arrivals are as given.

Leaving requests out makes the others no slower: their passes only get shorter. So requests that arrive in
the warm-up, which `results` does not count, are dropped, and any part of a workload may be looked at alone.

Three bounds on the sum of TTFT, of which the greatest counts. `pass_bounds` has the facts about passes.

**Solo.** A request's TTFT is at least the time of the passes that run it, and each is at least as long as
with nothing else in it: TTFT_i >= s_i, the least over all ways to cut its prompt.

**Relaxed.** `Work` W(N, P) = a N + b P is a measure of which no pass does more than a second's worth per
second; request i has w_i = a L_i + b L_i^2 / 2. Spread the work of each pass evenly over its duration: every
schedule is then one of a single server of speed N that may share and preempt, in which no request ends later
than in truth. Of those, shortest remaining time first has the least mean (Schrage, 1968).

**Rent.** Let groups pay rent while they run passes: p seconds of TTFT per second (so p is how many requests
wait for a group's time). From the first arrival to E they can pay at most N p (E - first) together, so

    sum of TTFT  >=  sum of TTFT + rent paid - N p (E - first).

Share the rent of a pass among its requests by work. A request in a pass of T seconds and work W, w of it its
own, spends T there and pays p T w / W. Hence one that ends by E costs, TTFT and rent together, at least

    v_i = min( the least of T + p w_i T / W over passes that hold all of it,
               the least of t + p w_i f(t - e) over t >= its least time in two or more passes ),

f(t) = the least T / W of passes of at most t seconds, e = the shortest pass there is: of two or more passes
of t seconds together none is longer than t - e. One that ends after E costs at least max(s_i, E - arrival).
So the sum of TTFT is at least the sum of min(v_i, max(s_i, E - arrival_i)), less N p (E - first), for any
p >= 0 and any E. Here a pass shows that it is a barrier: short ones waste their fixed part, long ones keep
everybody in them. As load changes over time and one p fits one load, the span is halved again and again;
where the bounds of the halves, each looked at alone, add up to more than the whole's, they are taken.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace

import numpy as np

from hortator.sim.pass_bounds import Frontier, SoloTimes, Work, best_work, frontier, solo_times
from hortator.sim.workload import Floats, Ints, TraceRequest
from hortator.worker.engines.simulated.cost import PassCost

_LEAST_RENT = 0.05
_RENTS_PER_DECADE = 9
_BUCKET = 1.04
_SMALL_SHARE = 1 / 32
"""Prompts share a frontier if the longest has at most _BUCKET times the tokens of the shortest, this share of
a chunk budget added to both."""
_MAX_HALVINGS = 6
_LEAST_PART = 64
"""Requests; a span of fewer is not halved."""
_LATE_SHARES = (0.0, 1.0, 0.25, 0.0625)
"""The rent ends this share of the span's work (in group-seconds) after its last arrival."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerBound:
    """Seconds of mean TTFT over the counted requests; zeros when there are none."""

    mean_solo_s: float
    mean_relaxed_s: float
    mean_rent_s: float

    @property
    def mean_s(self) -> float:
        """No scheduler's mean TTFT is less."""
        return max(self.mean_solo_s, self.mean_relaxed_s, self.mean_rent_s)


def lower_bound(
    requests: Sequence[TraceRequest],
    *,
    cost: PassCost,
    num_groups: int,
    chunk_budget_tokens: int,
    warmup_s: float = 0.0,
) -> LowerBound:
    """Bound the mean TTFT of every scheduler on this workload; see the module docstring for the proofs.

    Args:
        requests: in order of arrival.
        cost: of one prefill group.
        num_groups: prefill groups.
        chunk_budget_tokens: most tokens of a rank in a pass.
        warmup_s: requests that arrived before are not counted, as in `Recorder`.

    Raises:
        ValueError: a request has prefix ids: a cache may save its work, and these are no bounds then.
    """
    arrived_at, num_prompt_tokens = array("d"), array("q")
    for request in requests:
        if request.prefix_block_ids:
            raise ValueError("requests with prefix ids may hit a cache: no lower bound is known for them")
        if request.arrived_at >= warmup_s:
            arrived_at.append(request.arrived_at)
            num_prompt_tokens.append(request.num_prompt_tokens)
    if not arrived_at:
        return LowerBound(mean_solo_s=0.0, mean_relaxed_s=0.0, mean_rent_s=0.0)
    arrivals = np.array(arrived_at)
    lengths, index = np.unique(np.array(num_prompt_tokens, dtype=np.int64), return_inverse=True)
    work = best_work(cost, budget=chunk_budget_tokens, lengths=lengths[index])
    solo = solo_times(cost, budget=chunk_budget_tokens, lengths=lengths)
    work_s = work.of(lengths)
    relaxed = srpt_flow_times(arrivals, work_s[index] / num_groups)
    charges = _Charges.build(cost, work, solo, budget=chunk_budget_tokens, lengths=lengths)
    rent = _Spans.build(arrivals, solo.least_s[index], work_s[index], num_groups).greatest(charges, index)
    return LowerBound(
        mean_solo_s=float(solo.least_s[index].mean()),
        mean_relaxed_s=float(relaxed.mean()),
        mean_rent_s=rent / len(arrivals),
    )


def srpt_flow_times(arrivals: Floats, service_s: Floats) -> Floats:
    """Arrival to end of each job on one server that always runs the one with the least left to do.

    Arrivals ascend. The running job is the head of the heap: only an arrival can put another one before it.
    """
    ends = np.empty(len(arrivals))
    heap: list[tuple[float, int]] = []
    now = 0.0
    for index, (at, needs) in enumerate(zip(arrivals.tolist(), service_s.tolist(), strict=True)):
        while heap:
            left, job = heap[0]
            if now + left > at:
                heapreplace(heap, (left - (at - now), job))
                break
            heappop(heap)
            now += left
            ends[job] = now
        now = at
        heappush(heap, (needs, index))
    while heap:
        left, job = heappop(heap)
        now += left
        ends[job] = now
    return ends - arrivals


@dataclass(frozen=True, slots=True, kw_only=True)
class _Charges:
    """v of each length as a function of the rent."""

    work_s: Floats
    solo: SoloTimes
    shortest_s: float
    any_pass: Frontier
    buckets: Sequence[tuple[slice, Frontier]]
    """Lengths that fit one pass, and the passes that hold one of them."""

    @classmethod
    def build(cls, cost: PassCost, work: Work, solo: SoloTimes, *, budget: int, lengths: Ints) -> _Charges:
        longest = int(lengths.max())
        buckets: list[tuple[slice, Frontier]] = []
        start, num_whole = 0, int(np.searchsorted(lengths, budget, side="right"))
        while start < num_whole:
            most = _BUCKET * (lengths[start] + _SMALL_SHARE * budget) - _SMALL_SHARE * budget
            end = int(np.searchsorted(lengths[:num_whole], most, side="right"))
            passes = frontier(
                cost,
                work,
                budget=budget,
                longest=longest,
                rank_n=int(lengths[start]),
                rank_n_at_most=int(lengths[end - 1]),
            )
            buckets.append((slice(start, end), passes))
            start = end
        return cls(
            work_s=work.of(lengths),
            solo=solo,
            shortest_s=cost.prefill_floor_s(1.0, 0.5, rank_n=1.0, rank_pairs=0.5),
            any_pass=frontier(cost, work, budget=budget, longest=longest),
            buckets=buckets,
        )

    def at(self, rent: float) -> Floats:
        """The charge v of each length."""
        several = self.any_pass
        charges = _least(
            self.solo.cut_s, several.seconds + self.shortest_s, several.per_work, rent * self.work_s
        )
        for part, passes in self.buckets:
            whole = _least(self.solo.least_s[part], passes.seconds, passes.per_work, rent * self.work_s[part])
            charges[part] = np.minimum(charges[part], whole)
        return charges


def _least(at_least_s: Floats, seconds: Floats, per_work: Floats, rents: Floats) -> Floats:
    """For each row the least of max(at_least, seconds) + rent * per_work over the frontier."""
    times = np.maximum(at_least_s[:, None], seconds[None, :])
    lowest: Floats = (times + rents[:, None] * per_work[None, :]).min(axis=1)
    return lowest


@dataclass(slots=True, kw_only=True)
class _Span:
    """Requests `start` to `end`, and what is known of their sum of TTFT."""

    start: int
    end: int
    total_s: float
    rising: dict[float, float]
    """End of the rent -> the bound at the last rent tried, while it grows: it is concave in the rent."""
    halves: tuple[_Span, _Span] | None = None

    def best(self) -> float:
        return self.total_s if self.halves is None else max(self.total_s, sum(h.best() for h in self.halves))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spans:
    """The workload, halved in time over and over."""

    arrivals: Floats
    solo_s: Floats
    num_groups: int
    root: _Span
    spans: list[_Span] = field(default_factory=list)

    @classmethod
    def build(cls, arrivals: Floats, solo_s: Floats, work_s: Floats, num_groups: int) -> _Spans:
        spans: list[_Span] = []
        sums = [np.concatenate(([0.0], np.cumsum(values))) for values in (solo_s, work_s)]

        def make(start: int, end: int, depth: int) -> _Span:
            total_s, total_work = (float(values[end] - values[start]) for values in sums)
            last = float(arrivals[end - 1])
            span = _Span(
                start=start,
                end=end,
                total_s=total_s,
                rising={last + share * total_work: total_s for share in _LATE_SHARES},
            )
            spans.append(span)
            middle = int(np.searchsorted(arrivals, 0.5 * (arrivals[start] + last)))
            if depth < _MAX_HALVINGS and end - start >= _LEAST_PART and start < middle < end:
                span.halves = make(start, middle, depth + 1), make(middle, end, depth + 1)
            return span

        root = make(0, len(arrivals), 0)
        return cls(arrivals=arrivals, solo_s=solo_s, num_groups=num_groups, root=root, spans=spans)

    def greatest(self, charges: _Charges, index: Ints) -> float:
        """The greatest bound on the sum of TTFT over all rents tried."""
        decades = np.log10(max(10.0, 2.0 * len(self.arrivals)) / _LEAST_RENT)
        for rent in np.geomspace(
            _LEAST_RENT, _LEAST_RENT * 10**decades, int(decades * _RENTS_PER_DECADE) + 2
        ).tolist():
            rising = [span for span in self.spans if span.rising]
            if not rising:
                break
            charge_s = charges.at(rent)[index]
            self._try(rent, rising, charge_s)
        return self.root.best()

    def _try(self, rent: float, spans: Sequence[_Span], charge_s: Floats) -> None:
        sums = np.concatenate(([0.0], np.cumsum(charge_s)))
        highest = float(charge_s.max())
        for span in spans:
            start, end = span.start, span.end
            for until, before in list(span.rising.items()):
                # Whoever arrived `highest` before the end of the rent pays in full.
                late = start + int(np.searchsorted(self.arrivals[start:end], until - highest))
                after_s = np.maximum(self.solo_s[late:end], until - self.arrivals[late:end])
                total_s = float(sums[late] - sums[start])
                total_s += float(np.minimum(charge_s[late:end], after_s).sum())
                total_s -= self.num_groups * rent * (until - float(self.arrivals[start]))
                span.total_s = max(span.total_s, total_s)
                if total_s < before:
                    del span.rising[until]
                else:
                    span.rising[until] = total_s
