"""Requests of a virtual run: one record while it lives, a row of numbers afterwards.

`RequestRows` keeps 88 bytes of each that has ended, and gives them away when they have become many (`tally`
says how many). The figures are made of columns, whichever way the requests were kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isnan
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hortator.sim.slo import ITL_SHARE, Slo

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request's life; times in virtual seconds, NaN where it never got there."""

    request_id: str
    arrived_at: float
    num_prompt_tokens: int
    num_output_tokens: int
    tenant: int = 0
    block_hashes: tuple[int, ...] = ()
    dispatched_at: float = float("nan")
    started_at: float = float("nan")
    first_token_at: float = float("nan")
    second_token_at: float = float("nan")
    finished_at: float = float("nan")
    prefill_group: str = ""
    dp_rank: int | None = None
    """Of the prefill group."""
    first_decode_pass: int = 1 << 60
    num_late_gaps: int = 0
    """Gaps from the second token on that were longer than the SLO's `itl`."""
    rejected: str = ""

    @property
    def hold_s(self) -> float:
        """Arrival to dispatch."""
        return self.dispatched_at - self.arrived_at

    @property
    def engine_queue_s(self) -> float:
        """Dispatch to the start of the first pass that runs it."""
        return self.started_at - self.dispatched_at

    @property
    def ttft_s(self) -> float:
        """Arrival to the first token."""
        return self.first_token_at - self.arrived_at

    @property
    def first_gap_s(self) -> float:
        """First to second token."""
        return self.second_token_at - self.first_token_at

    @property
    def tpot_s(self) -> float:
        """(E2E - TTFT) / (output tokens - 1); NaN with one token."""
        if isnan(self.second_token_at):
            return float("nan")
        return (self.finished_at - self.first_token_at) / (self.num_output_tokens - 1)

    @property
    def e2e_s(self) -> float:
        """Arrival to the last token."""
        return self.finished_at - self.arrived_at


class RequestTable(NamedTuple):
    """Columns over requests in order of arrival; times in virtual seconds, NaN where it never got there."""

    arrived_at: Floats
    dispatched_at: Floats
    started_at: Floats
    first_token_at: Floats
    second_token_at: Floats
    finished_at: Floats
    num_prompt_tokens: Floats
    num_output_tokens: Floats
    num_late_gaps: Floats
    is_rejected: Floats
    """1 or 0."""
    tenant: Floats
    """Its number."""

    @classmethod
    def of(cls, records: Iterable[RequestRecord]) -> Self:
        """From records that were kept."""
        rows = RequestRows()
        for record in records:
            rows.add(record)
        return cls(*rows.columns())

    def where(self, chosen: Bools) -> Self:
        """Some of the rows."""
        return type(self)(*(column[chosen] for column in self))

    @property
    def is_finished(self) -> Bools:
        """Its last token is out."""
        return ~np.isnan(self.finished_at)

    @property
    def ttft_s(self) -> Floats:
        """Arrival to the first token."""
        return self.first_token_at - self.arrived_at

    @property
    def hold_s(self) -> Floats:
        """Arrival to dispatch."""
        return self.dispatched_at - self.arrived_at

    @property
    def engine_queue_s(self) -> Floats:
        """Dispatch to the start of the first pass that runs it."""
        return self.started_at - self.dispatched_at

    @property
    def first_gap_s(self) -> Floats:
        """First to second token."""
        return self.second_token_at - self.first_token_at

    @property
    def tpot_s(self) -> Floats:
        """(E2E - TTFT) / (output tokens - 1); NaN without a second token."""
        num_gaps = np.where(np.isnan(self.second_token_at), np.nan, self.num_output_tokens - 1.0)
        return (self.finished_at - self.first_token_at) / num_gaps

    @property
    def e2e_s(self) -> Floats:
        """Arrival to the last token."""
        return self.finished_at - self.arrived_at

    def keeps(self, slo: Slo) -> Bools:
        """Which ended within every limit; one without a second token has no gap to be late."""
        has_gaps = ~np.isnan(self.second_token_at)
        num_late = self.num_late_gaps + (self.first_gap_s > slo.itl)
        in_time = self.is_finished & (self.ttft_s <= slo.ttft) & (self.e2e_s <= slo.e2e)
        gaps_in_time = (self.tpot_s <= slo.tpot) & (
            num_late <= (1.0 - ITL_SHARE) * (self.num_output_tokens - 1.0)
        )
        kept: Bools = in_time & (~has_gaps | gaps_in_time)
        return kept


class RequestRows:
    """Rows of numbers of requests, in any order; `columns` sorts them by arrival."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, record: RequestRecord) -> None:
        """Keep what the figures need of a request."""
        self._values.extend(
            (
                record.arrived_at,
                record.dispatched_at,
                record.started_at,
                record.first_token_at,
                record.second_token_at,
                record.finished_at,
                record.num_prompt_tokens,
                record.num_output_tokens,
                record.num_late_gaps,
                1.0 if record.rejected else 0.0,
                record.tenant,
            )
        )

    def __len__(self) -> int:
        return len(self._values) // len(RequestTable._fields)

    def drain(self, num_at_once: int) -> Iterator[RequestTable]:
        """Give all rows away, so many at once and in the order they came."""
        rows = np.frombuffer(self._values).reshape(-1, len(RequestTable._fields))
        self._values = array("d")
        for start in range(0, len(rows), num_at_once):
            yield RequestTable(*rows[start : start + num_at_once].T)

    def columns(self) -> tuple[Floats, ...]:
        """The columns of a RequestTable."""
        rows = np.array(self._values).reshape(-1, len(RequestTable._fields))
        return tuple(rows[np.argsort(rows[:, 0], kind="stable")].T)
