"""What was done to whom while it did what: faults count as distinct by (kind, victim, state of the victim)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

UNKNOWN = frozenset({"does not answer", "starting"})
"""No state of the protocol."""


@dataclass
class Ledger:
    """Counts faults, and knows which were there at once."""

    faults: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By kind, victim and state."""
    pairs: set[tuple[str, str]] = field(default_factory=set)
    """Of faults that were there at once: the two faults' kinds and victims, in alphabetical order."""

    def count(self, kind: str, victim: str, state: str) -> None:
        self.faults[kind, victim, state] += 1

    def note_pair(self, one: str, other: str) -> None:
        first, second = sorted((one, other))
        self.pairs.add((first, second))

    @property
    def num_distinct(self) -> int:
        return sum(state not in UNKNOWN for _, _, state in self.faults)

    def rows(self) -> list[dict[str, object]]:
        """For a file."""
        return [
            {"kind": kind, "victim": victim, "state": state, "count": count}
            for (kind, victim, state), count in sorted(self.faults.items())
        ]

    def table(self) -> str:
        """For a person: a line per kind and victim, the states behind it."""
        lines = []
        for kind, victim in sorted({(kind, victim) for kind, victim, _ in self.faults}):
            states = ", ".join(
                f"{state} {count}"
                for (one, other, state), count in sorted(self.faults.items())
                if (one, other) == (kind, victim)
            )
            lines.append(f"{kind:10} {victim:24} {states}")
        total = sum(self.faults.values())
        lines.append(
            f"{total} faults, {self.num_distinct} distinct; {len(self.pairs)} distinct pairs at once"
        )
        return "\n".join(lines)
