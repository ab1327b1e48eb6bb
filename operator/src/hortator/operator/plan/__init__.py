"""The next step: from what should be and what is to at most one write per group, and the whole status."""

from hortator.operator.plan.actions import (
    Action,
    Apply,
    Create,
    Delete,
    Emit,
    MakeCertificates,
    PatchLabels,
    Plan,
    Scale,
    StartDrain,
    StatusOf,
)
from hortator.operator.plan.planner import plan, refused_statuses

__all__ = [
    "Action",
    "Apply",
    "Create",
    "Delete",
    "Emit",
    "MakeCertificates",
    "PatchLabels",
    "Plan",
    "Scale",
    "StartDrain",
    "StatusOf",
    "plan",
    "refused_statuses",
]
