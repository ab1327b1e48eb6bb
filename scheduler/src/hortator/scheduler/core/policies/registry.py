"""The one list of policies; names as in settings, LLMService, command line and metrics."""

from __future__ import annotations

from hortator.scheduler.core.model import SchedulerSettings
from hortator.scheduler.core.policies import immediate
from hortator.scheduler.core.policies.base import Policy, PolicyFactory
from hortator.scheduler.core.policies.fixed_batch import FixedBatch
from hortator.scheduler.core.policies.staggered import Staggered
from hortator.scheduler.core.policies.staggered_plus import StaggeredPlus

_FACTORIES: dict[str, PolicyFactory] = {
    "immediate-round-robin": immediate.round_robin,
    "immediate-least-requests": immediate.by_least_requests,
    "immediate-weighted-requests": immediate.by_weighted_requests,
    "immediate-least-tokens": immediate.by_least_tokens,
    "immediate-power-of-two": immediate.power_of_two,
    "immediate-least-delay": immediate.by_least_delay,
    "fixed-batch": FixedBatch,
    "staggered": Staggered,
    "staggered-plus": StaggeredPlus,
}

POLICY_NAMES: tuple[str, ...] = tuple(_FACTORIES)


def make_policy(settings: SchedulerSettings) -> Policy:
    """The policy that `settings.policy` names. ValueError lists the names."""
    try:
        factory = _FACTORIES[settings.policy]
    except KeyError:
        raise ValueError(f"unknown policy {settings.policy!r}; one of: {', '.join(POLICY_NAMES)}") from None
    return factory(settings)
