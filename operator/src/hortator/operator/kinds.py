"""What the operator watches: LLMServices, their scalers and children, and what they share with others.

Children are found by the label `managed-by`, so that the API server sends nothing else; Nodes and the pods of
others are only for the capacity check. Secrets are not here: the operator may not read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hortator.api.v1alpha1 import API_VERSION, KIND, SCALER_KIND, SCALER_PLURAL
from hortator.operator.names import LABEL_MANAGED_BY, OPERATOR_NAME

_OURS = {LABEL_MANAGED_BY: OPERATOR_NAME}


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One kind, and which of its objects."""

    api_version: str
    kind: str
    plural: str
    labels: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    is_namespaced: bool = True

    @property
    def group_version(self) -> tuple[str, str]:
        """API group (empty for the core) and version."""
        group, _, version = self.api_version.rpartition("/")
        return group, version


def ours(api_version: str, kind: str, plural: str) -> Watched:
    """Those objects of a kind that the operator has made."""
    return Watched(api_version=api_version, kind=kind, plural=plural, labels=_OURS)


SERVICES = Watched(api_version=API_VERSION, kind=KIND, plural="llmservices")
SCALERS = Watched(api_version=API_VERSION, kind=SCALER_KIND, plural=SCALER_PLURAL)
NODES = Watched(api_version="v1", kind="Node", plural="nodes", is_namespaced=False)
PODS = Watched(api_version="v1", kind="Pod", plural="pods", labels=_OURS)
EVENTS = Watched(api_version="v1", kind="Event", plural="events", fields={"type": "Warning"})
CHILDREN: tuple[Watched, ...] = (
    PODS,
    Watched(api_version="apps/v1", kind="StatefulSet", plural="statefulsets", labels=_OURS),
    Watched(api_version="apps/v1", kind="Deployment", plural="deployments", labels=_OURS),
    Watched(api_version="apps/v1", kind="ControllerRevision", plural="controllerrevisions", labels=_OURS),
    Watched(api_version="batch/v1", kind="Job", plural="jobs", labels=_OURS),
    Watched(api_version="v1", kind="Service", plural="services", labels=_OURS),
    Watched(api_version="v1", kind="ServiceAccount", plural="serviceaccounts", labels=_OURS),
    Watched(api_version="v1", kind="PersistentVolumeClaim", plural="persistentvolumeclaims", labels=_OURS),
    Watched(api_version="policy/v1", kind="PodDisruptionBudget", plural="poddisruptionbudgets", labels=_OURS),
    Watched(api_version="networking.k8s.io/v1", kind="NetworkPolicy", plural="networkpolicies", labels=_OURS),
)
"""Children first, LLMServices last: a service that becomes known has its children already."""
