"""Processor time: of the whole machine, and of a process with all that it started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTime:
    """Seconds of all cores together since the machine started."""

    busy_s: float
    total_s: float

    @classmethod
    def now(cls) -> MachineTime:
        """Read it. I/O wait is idle; guest time is in user time already."""
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        user, nice, system, idle, iowait, irq, softirq, steal = (
            int(field) / _TICKS_PER_S for field in fields
        )
        busy_s = user + nice + system + irq + softirq + steal
        return cls(busy_s=busy_s, total_s=busy_s + idle + iowait)

    def share_since(self, earlier: MachineTime) -> float:
        """Share of the machine that was busy since then."""
        return min(1.0, (self.busy_s - earlier.busy_s) / max(self.total_s - earlier.total_s, 1e-9))


def session_seconds(session_id: int) -> float:
    """Processor time of every process of a session that lives now.

    The id is the pid of the child that was started in a session of its own.
    """
    seconds = 0.0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == session_id:
            seconds += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return seconds
