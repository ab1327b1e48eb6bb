"""What became of one request, as its client saw it, and what a run's answers say together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    REJECTED = "rejected"
    """Refused by the router: 429, 503, or its like."""
    FAILED = "failed"
    """Anything else: another error, a broken stream, no answer in time."""


@dataclass(slots=True, kw_only=True)
class Answer:
    """One request; times of the event loop, seconds."""

    due_at: float
    """When the workload says that it arrives, whenever it was really sent."""
    sent_at: float = 0.0
    first_token_at: float | None = None
    outcome: Outcome = Outcome.FAILED
    detail: str = "no answer in time"

    def first_token(self, at: float) -> None:
        """The first token is here."""
        if self.first_token_at is None:
            self.first_token_at = at

    def end(self, outcome: Outcome, detail: str = "") -> None:
        """The one and last word."""
        self.outcome, self.detail = outcome, detail

    @property
    def ttft_s(self) -> float | None:
        """From the time it was due to its first token; None unless it was answered."""
        if self.outcome is not Outcome.ANSWERED or self.first_token_at is None:
            return None
        return self.first_token_at - self.due_at


def summarize(answers: Sequence[Answer], *, measured_s: float, slo_ttft_s: float) -> dict[str, float]:
    """Figures of the requests that were due while a run was measured.

    Args:
        answers: those requests, all of them.
        measured_s: how long that was.
        slo_ttft_s: TTFT up to which an answer counts for goodput.

    Raises:
        ValueError: fewer than two requests were answered.
    """
    ttfts = [ttft for answer in answers if (ttft := answer.ttft_s) is not None]
    if len(ttfts) < 2:
        details = sorted({answer.detail for answer in answers if answer.detail})
        raise ValueError(f"{len(ttfts)} of {len(answers)} requests were answered ({'; '.join(details[:3])})")
    cuts = statistics.quantiles(ttfts, n=100, method="inclusive")
    lateness = [answer.sent_at - answer.due_at for answer in answers]
    return {
        "requests": len(answers),
        "answered": len(ttfts),
        "rejected": sum(answer.outcome is Outcome.REJECTED for answer in answers),
        "failed": sum(answer.outcome is Outcome.FAILED for answer in answers),
        "ttft_mean_ms": 1e3 * statistics.fmean(ttfts),
        "ttft_p50_ms": 1e3 * cuts[49],
        "ttft_p90_ms": 1e3 * cuts[89],
        "ttft_p99_ms": 1e3 * cuts[98],
        "ttft_max_ms": 1e3 * max(ttfts),
        "goodput_per_s": sum(ttft <= slo_ttft_s for ttft in ttfts) / measured_s,
        "client_late_max_ms": 1e3 * max(lateness),
    }
