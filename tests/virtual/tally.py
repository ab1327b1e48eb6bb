"""Many trials together."""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos.ledger import Ledger

from virtual.trial import Outcome


@dataclass
class Tally:
    """Sums over trials, and the seeds of those that broke a promise."""

    num_trials: int = 0
    num_requests: int = 0
    num_ended: int = 0
    num_cancelled: int = 0
    num_tokens: int = 0
    num_restarts: int = 0
    slowest_recovery_s: float = 0.0
    ledger: Ledger = field(default_factory=Ledger)
    broken: list[int] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.num_trials += 1
        self.num_requests += outcome.num_requests
        self.num_ended += outcome.num_ended
        self.num_cancelled += outcome.num_cancelled
        self.num_tokens += outcome.num_tokens
        self.num_restarts += outcome.num_restarts
        self.slowest_recovery_s = max(self.slowest_recovery_s, outcome.recovery_s)
        self.ledger.faults += outcome.ledger.faults
        self.ledger.pairs |= outcome.ledger.pairs
        if outcome.problems:
            self.broken.append(outcome.seed)

    def document(self) -> dict[str, object]:
        """For a file."""
        return {
            "schedules": self.num_trials,
            "requests": self.num_requests,
            "ended": self.num_ended,
            "cancelled": self.num_cancelled,
            "tokens_compared": self.num_tokens,
            "process_restarts": self.num_restarts,
            "slowest_recovery_s": round(self.slowest_recovery_s, 3),
            "faults": self.ledger.rows(),
            "distinct_faults": self.ledger.num_distinct,
            "distinct_pairs": len(self.ledger.pairs),
            "broken_seeds": self.broken,
        }

    def text(self) -> str:
        """For a person."""
        return (
            f"{self.num_trials} schedules: {self.num_requests} requests, {self.num_ended} ended, "
            f"{self.num_cancelled} cancelled by their clients, {self.num_tokens} tokens compared, "
            f"{self.num_restarts} processes started again, all ended {self.slowest_recovery_s:.1f} s after the last "
            f"fault at the latest; {len(self.broken)} schedules broke a promise"
            f"{': ' + ', '.join(map(str, self.broken)) if self.broken else ''}\n{self.ledger.table()}"
        )
