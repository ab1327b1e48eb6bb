"""Events about an LLMService or a scaler: one when a condition changes its status, or Ready its reason."""

from __future__ import annotations

from collections.abc import Iterator

from hortator.operator.objects import Obj, Ref
from hortator.operator.observed.reading import items, text
from hortator.operator.plan.actions import Emit

_GOOD = {
    "Ready",
    "Available",
    "Accepted",
    "ModelReady",
    "Scheduled",
    "WorkersReady",
    "SchedulerReady",
    "Active",
    "CertificatesReady",
}
_BAD = {"Degraded", "Stalled"}
_TOLD = ("Ready", "Accepted", "Stalled", "Suspended", "Active", "CertificatesReady")
_TOLD_OF_A_ROLLOUT = {"ProgressDeadlineExceeded", "PrePullFailed", "RolloutPaused", "LastAvailableGroup"}
"""Reasons of Progressing that nothing but a person ends."""
_BAD_OF_A_ROLLOUT = {"ProgressDeadlineExceeded", "PrePullFailed"}


def transitions(before: Obj, after: Obj, *, about: Ref | None = None) -> Iterator[Emit]:
    """The events that tell the way from one status to the next; none for the first status of an object."""
    past = {text(entry, "type"): entry for entry in items(before, "conditions")}
    for entry in items(after, "conditions"):
        kind, status, reason = text(entry, "type"), text(entry, "status"), text(entry, "reason")
        old = past.get(kind)
        if old is None or not (kind in _TOLD or (kind == "Progressing" and reason in _TOLD_OF_A_ROLLOUT)):
            continue
        is_new_status = text(old, "status") != status
        is_other = text(old, "reason") != reason
        is_new_reason = is_other and (kind == "Ready" or reason in _TOLD_OF_A_ROLLOUT)
        if is_new_status or is_new_reason:
            is_bad = (kind in _GOOD and status != "True" and _is_error(reason)) or (
                (kind in _BAD and status == "True") or reason in _BAD_OF_A_ROLLOUT
            )
            yield Emit(
                type="Warning" if is_bad else "Normal",
                reason=reason,
                message=f"{kind} is {status}: {text(entry, 'message') or reason}",
                about=about,
            )


def _is_error(reason: str) -> bool:
    return reason not in _EXPECTED


_EXPECTED = {
    "ModelDownloading",
    "RestartBackoff",
    "GroupRestarting",
    "GangPending",
    "SchedulerNotReady",
    "GatewayNotReady",
    "CertificatesMissing",
    "PodsCreating",
    "WaitingForPeers",
    "LoadingWeights",
    "NotReady",
    "Draining",
    "PrePulling",
    "RollingUpdate",
    "RolloutPaused",
    "RolloutPartition",
    "RolloutSkew",
    "RestartRequested",
    "NodeCordoned",
    "ScaleDown",
    "Suspending",
    "Suspended",
    "ScaledToZero",
}
"""Reasons that belong to an ordinary life."""
