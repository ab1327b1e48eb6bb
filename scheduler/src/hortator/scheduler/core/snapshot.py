"""What the machine looks like from outside at one moment: plain values, safe to keep and print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import GroupSpec, Phase, RankLoads


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSnapshot:
    """One EP group as the scheduler believes it to be."""

    spec: GroupSpec
    state: str
    """unreported, ready, running, suspect or draining."""
    forward_pass_id: int
    last_report_age_s: float
    predicted_pass_s: float
    """Of a full pass."""
    loads: RankLoads
    """Reported loads plus what was dispatched after the last report."""
    num_in_flight: int
    """Requests placed on the group and not finished there."""

    @property
    def is_placeable(self) -> bool:
        """May anything be placed there?"""
        return self.state in {"ready", "running"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSnapshot:
    """The whole machine."""

    epoch: int
    policy: str
    num_waiting: int
    waiting_tokens: int
    num_waiting_decode: int
    oldest_wait_s: float
    num_in_flight: int
    waiting_by_tenant: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Requests and prompt tokens of each tenant that the settings name."""
    saturation: Mapping[Phase, float] = field(default_factory=dict)
    """Asked over what the phase's groups can do, where that is known; see `saturation`."""
    predicted_ttft_s: float | None = None
    """Of a request of mean length that arrives now; None: not known."""
    groups: tuple[GroupSnapshot, ...]


def snapshot_group(group: GroupState, now: float) -> GroupSnapshot:
    """One group at time `now`."""
    if group.draining:
        state = "draining"
    elif group.suspect:
        state = "suspect"
    elif not group.has_reported:
        state = "unreported"
    else:
        state = "running" if group.running else "ready"
    return GroupSnapshot(
        spec=group.spec,
        state=state,
        forward_pass_id=group.forward_pass_id,
        last_report_age_s=now - group.last_heard_at,
        predicted_pass_s=group.full_pass_s,
        loads=RankLoads(
            prefill_load_tokens=tuple(group.load_tokens),
            batch_size=tuple(group.batch_size),
            kv_blocks_used=tuple(group.kv_used),
        ),
        # What an earlier leader placed is known by its load alone.
        num_in_flight=max(len(group.in_flight), sum(group.batch_size)),
    )
