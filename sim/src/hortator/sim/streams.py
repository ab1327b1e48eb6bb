"""Workloads whose requests are made as they are asked for, so that a million of them are never there at once.

Going through one again makes the same requests again. They are sequences, for whoever wants some of a small
one; picking goes through all that come before.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Self, overload

import numpy as np

from hortator.sim.arrivals import RECORDED, ArrivalMode, Arrivals, draw_times
from hortator.sim.workload import DrawnLengths, PoissonTimes, TraceRequest, seeded

CHUNK_REQUESTS = 1 << 13

_Row = tuple[float, int, int, tuple[int, ...], int]
"""Arrival, prompt tokens, output tokens, ids and tokens of the prefix blocks: a TraceRequest's fields."""


class RequestStream(Sequence[TraceRequest]):
    """Iterated with `for`; the rest follows from that."""

    __slots__ = ()

    @abstractmethod
    def __iter__(self) -> Iterator[TraceRequest]: ...

    @overload
    def __getitem__(self, key: int) -> TraceRequest: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[TraceRequest, ...]: ...

    def __getitem__(self, key: int | slice) -> TraceRequest | tuple[TraceRequest, ...]:
        if isinstance(key, slice):
            return tuple(self)[key]
        index = range(len(self))[key]
        return next(islice(self, index, None))


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedRequests(RequestStream):
    """What `workload.generate` makes of the same arguments, or the first requests of it."""

    lengths: DrawnLengths
    arrivals: PoissonTimes
    seed: int
    num_drawn: int
    """How many requests arrive; lengths are drawn for as many."""
    num_requests: int
    """How many of them are meant."""

    @classmethod
    def draw(cls, *, lengths: DrawnLengths, arrivals: PoissonTimes, seed: int) -> Self:
        """All that arrive."""
        _, rng = seeded(seed)
        num = sum(len(times) for times in arrivals.chunks(rng, CHUNK_REQUESTS))
        return cls(lengths=lengths, arrivals=arrivals, seed=seed, num_drawn=num, num_requests=num)

    def __len__(self) -> int:
        return self.num_requests

    def __iter__(self) -> Iterator[TraceRequest]:
        for at, num_prompt_tokens, num_output_tokens, _, _ in self.rows():
            yield TraceRequest(
                arrived_at=at, num_prompt_tokens=num_prompt_tokens, num_output_tokens=num_output_tokens
            )

    def rows(self) -> Iterator[_Row]:
        """The same, as plain tuples."""
        length_rng, arrival_rng = seeded(self.seed)
        times = chain.from_iterable(
            chunk.tolist() for chunk in self.arrivals.chunks(arrival_rng, CHUNK_REQUESTS)
        )
        lengths = chain.from_iterable(
            zip(prompts.tolist(), outputs.tolist(), strict=True)
            for prompts, outputs in self.lengths.chunks(length_rng, self.num_drawn, CHUNK_REQUESTS)
        )
        for at, (prompt, output) in islice(zip(times, lengths, strict=True), self.num_requests):
            yield at, prompt, output, (), 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetimedRequests(RequestStream):
    """Other requests, repeated in whole tiles, at other times.

    A repetition has prefixes of its own: it must not hit the cache that the one before it filled.
    """

    requests: Sequence[TraceRequest]
    num_tiles: int
    period_s: float
    """Length of a tile."""
    first_at: float
    stretch: float
    """RECORDED times are (time - `first_at`) x `stretch` into the tile."""
    num_blocks: int
    """Ids of prefix blocks are less."""
    arrivals: Arrivals = RECORDED
    """Others are drawn, all at once: 8 bytes a request, because they must be sorted."""
    seed: int = 0

    def __len__(self) -> int:
        return self.num_tiles * len(self.requests)

    def __iter__(self) -> Iterator[TraceRequest]:
        times = self._drawn_times()
        for tile in range(self.num_tiles):
            shift, tile_at = tile * self.num_blocks, tile * self.period_s
            for at, num_prompt_tokens, num_output_tokens, block_ids, block_tokens in _rows(self.requests):
                yield TraceRequest(
                    arrived_at=(at - self.first_at) * self.stretch + tile_at
                    if times is None
                    else next(times),
                    num_prompt_tokens=num_prompt_tokens,
                    num_output_tokens=num_output_tokens,
                    prefix_block_ids=tuple([block + shift for block in block_ids]) if shift else block_ids,
                    prefix_block_tokens=block_tokens,
                )

    def _drawn_times(self) -> Iterator[float] | None:
        if self.arrivals.mode is ArrivalMode.RECORDED:
            return None
        wall_s = self.num_tiles * self.period_s
        times = draw_times(
            self.arrivals, np.random.default_rng(self.seed), num_requests=len(self), wall_s=wall_s
        )
        return map(float, times)


def _rows(requests: Sequence[TraceRequest]) -> Iterator[_Row]:
    if isinstance(requests, GeneratedRequests):
        return requests.rows()
    return (
        (
            request.arrived_at,
            request.num_prompt_tokens,
            request.num_output_tokens,
            request.prefix_block_ids,
            request.prefix_block_tokens,
        )
        for request in requests
    )
