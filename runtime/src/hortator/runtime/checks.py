"""What doctors find: of a cluster, of a machine, of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was looked at, what was found, and what to do about it.

    `skipped` is what could not be looked at here; `found` says why.
    """

    name: str
    verdict: Verdict
    found: str
    fix: str = ""
