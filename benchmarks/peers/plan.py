"""What is run: contenders x loads x repeats, and how long each run is. Times are wall-clock seconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from peers.contenders import STANDARD

OVERHEAD_S = 9.0
"""Of a run: start, settling, the last answers, stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One contender at one load, once."""

    contender: str
    load: float
    repeat: int

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.contender} at {self.load:g}, repeat {self.repeat + 1}"

    @property
    def key(self) -> str:
        """The name of its file."""
        return f"{self.contender}-{self.load:g}-{self.repeat}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All runs; the same plan and seed send the same requests at the same times."""

    contenders: tuple[str, ...] = STANDARD
    loads: tuple[float, ...] = (0.5, 0.7, 0.85)
    repeats: int = 3
    warmup_s: float = 10.0
    """Requests that are due before are sent and not measured: everybody starts on empty engines."""
    measured_s: float = 30.0
    chunk_budget_tokens: int = 8192
    """Of the engines."""
    seed: int = 0
    max_machine_share: float = 0.6
    """A run during which the machine was busier is discarded: its times are the machine's."""
    max_tries: int = 2
    slo_ttft_s: float = 2.0
    """Of the modelled engine; these are slower by its time scale."""

    def runs(self) -> Iterator[Run]:
        """Interleaved: within a repeat and a load everybody has a turn; who begins changes."""
        for repeat in range(self.repeats):
            for position, load in enumerate(self.loads):
                shift = (repeat + position) % len(self.contenders)
                for contender in (*self.contenders[shift:], *self.contenders[:shift]):
                    yield Run(contender=contender, load=load, repeat=repeat)

    @property
    def sending_s(self) -> float:
        """Length of a run's arrivals."""
        return self.warmup_s + self.measured_s

    def duration_s(self, num_runs: int) -> float:
        """About how long that many runs take."""
        return num_runs * (self.sending_s + OVERHEAD_S)

    def digest(self, *more: object) -> str:
        """Of everything that a single run depends on: finished runs of another digest are not taken."""
        values = asdict(self)
        for name in ("contenders", "loads", "repeats", "max_tries"):
            del values[name]
        return hashlib.sha256(json.dumps([values, *more], default=str).encode()).hexdigest()[:12]
