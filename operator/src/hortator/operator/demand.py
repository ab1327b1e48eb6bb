"""How many units are asked for, and for how long it has been so: what the scaler decides by.

A scheduler says the saturation of a phase: what is asked over what its placeable groups can do. So

    units asked of a role = saturation x its placeable groups / (groups per unit x target saturation)

does not change when a group fails, drains or starts: it is the demand. Of an LLMService a unit is a role
set, and the role that asks for most decides, since a set has groups of every role. Of an LLMServiceScaler a
unit is one group of its role in every set. A role that has such a scaler has no say in the number of sets:
it takes the groups that it needs in those that there are.

What was asked is kept as samples in memory, never in the cluster: an operator that has just started, a
scheduler that did not answer, a role of which nothing is known: each begins the windows anew. Then nothing is
scaled until they are full again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from hortator.api.v1alpha1 import AutoscalingSpec, LLMServiceSpec, RoleName
from hortator.operator.observed import SchedulerView

SAMPLE_S = 10.0
"""Between samples."""
MAX_GAP_S = 60.0
"""Nobody looked for longer: what was before it says nothing about now."""
PLACEABLE = frozenset({"ready", "running"})
_FIRST_TOKEN: frozenset[RoleName] = frozenset({"Prefill", "Aggregated"})
"""Roles whose groups the time to first token is up to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was asked at one moment."""

    at: datetime
    num_units: float
    """That would be as full as they should be."""
    num_serving: int
    """Units' worth of groups that took requests."""
    ttft_s: float | None
    """Predicted for a new request; None: not known, or not up to these groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Samples without a gap, oldest first."""

    samples: tuple[Sample, ...] = ()

    def with_sample(self, sample: Sample | None, now: datetime, scaling: AutoscalingSpec) -> Demand:
        """With one more, or from the beginning if nothing is known; what is too old to count goes."""
        if sample is None:
            return Demand()
        last = self.samples[-1].at if self.samples else now
        if now - last > timedelta(seconds=MAX_GAP_S):
            return Demand(samples=(sample,))
        if self.samples and now - last < timedelta(seconds=SAMPLE_S):
            return self
        longest_s = max(scaling.scale_up_window_s, scaling.scale_down_window_s) + MAX_GAP_S
        kept = [one for one in self.samples if now - one.at <= timedelta(seconds=longest_s)]
        return Demand(samples=(*kept, sample))

    def within(self, window_s: float, now: datetime) -> tuple[Sample, ...]:
        """All samples of a window that ends now; none unless they fill it."""
        begins_at = now - timedelta(seconds=window_s)
        if not self.samples or self.samples[0].at > begins_at:
            return ()
        return tuple(one for one in self.samples if one.at >= begins_at) or self.samples[-1:]


def sample_of(
    spec: LLMServiceSpec,
    view: SchedulerView | None,
    now: datetime,
    *,
    scaled_apart: Collection[RoleName] = (),
) -> Sample | None:
    """What a scheduler's answer asks of role sets; None: too little is known."""
    if spec.autoscaling is None:
        return None
    shares = {
        role.name: role.replicas for role in spec.roles if role.replicas > 0 and role.name not in scaled_apart
    }
    return _sample(shares, spec.autoscaling, view, now)


def sample_of_role(
    spec: LLMServiceSpec, role: RoleName, scaling: AutoscalingSpec, view: SchedulerView | None, now: datetime
) -> Sample | None:
    """What a scheduler's answer asks of the groups of one role, per role set; None: too little is known."""
    return _sample({role: spec.replicas} if spec.replicas else {}, scaling, view, now)


def _sample(
    shares: dict[RoleName, int], scaling: AutoscalingSpec, view: SchedulerView | None, now: datetime
) -> Sample | None:
    """`shares` are the groups of each role that make a unit."""
    if view is None or not shares:
        return None
    asked, serving = [], []
    for role, num_groups in shares.items():
        phase = role.lower()
        saturation = view.saturation.get(phase)
        if saturation is None:
            return None
        num_placeable = _placeable(view, phase)
        asked.append(saturation * num_placeable / (num_groups * scaling.target_saturation))
        serving.append(num_placeable // num_groups)
    ttft_s = view.predicted_ttft_s if _FIRST_TOKEN & shares.keys() else None
    return Sample(at=now, num_units=max(asked), num_serving=min(serving), ttft_s=ttft_s)


def _placeable(view: SchedulerView, phase: str) -> int:
    return sum(one.phase == phase and one.state in PLACEABLE for one in view.workers.values())
