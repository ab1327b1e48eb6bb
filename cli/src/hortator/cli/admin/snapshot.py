"""What a scheduler says of itself: the admin snapshot without its wire format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PhaseName = Literal["prefill", "decode", "aggregated", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSnapshot:
    """Last known load of one DP rank."""

    dp_rank: int
    prefill_load_tokens: int
    batch_size: int
    kv_blocks_used: int
    kv_blocks_total: int
    chunk_budget_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSnapshot:
    """One EP group."""

    worker_id: str
    boot_id: str
    address: str
    phase: PhaseName
    state: str
    """ready, running, suspect, draining or unreported."""
    forward_pass_id: int
    last_report_age_s: float
    predicted_pass_s: float
    num_in_flight: int
    ranks: tuple[RankSnapshot, ...]
    is_draining: bool = False
    """Nothing new is placed there."""
    drain_acknowledged: bool = False
    """The worker has said so itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSnapshot:
    """One recent placement."""

    request_id: str
    attempt: int
    phase: PhaseName
    worker_id: str
    dp_rank: int
    batch_id: str
    batch_size: int
    hold_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The scheduler's view at one moment."""

    at_s: float
    epoch: int
    policy: str
    num_waiting: int
    waiting_tokens: int
    oldest_wait_s: float
    num_in_flight: int
    num_gateways: int
    num_finished: int
    num_rejected: Mapping[str, int]
    """By reason."""
    groups: tuple[GroupSnapshot, ...]
    recent_placements: tuple[PlacementSnapshot, ...]
