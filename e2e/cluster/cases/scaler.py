"""LLMServiceScalers that keep or break each rule, for the API server and for its mirror in `hortator.api`."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]

BASE: Obj = {
    "apiVersion": "serving.hortator.dev/v1alpha1",
    "kind": "LLMServiceScaler",
    "metadata": {"name": "decode"},
    "spec": {"serviceName": "deepseek-v3", "role": "Decode"},
}
SCALING: Obj = {"minReplicas": 1, "maxReplicas": 4}
BOUNDS = "minReplicas must not be above maxReplicas"
FIRST_TOKEN = "only with role Prefill or Aggregated"  # noqa: S105  # no secret
SERVICE = "serviceName cannot change: make another LLMServiceScaler"
ROLE = "role cannot change: make another LLMServiceScaler"
NAME = "the name of an LLMService"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One object, or one change of the base object, and what must be said to it."""

    name: str
    covers: str
    """A rule; empty: a bound of one field."""
    spec: Mapping[str, Any]
    """Over that of the base object; None takes a field away."""
    refused: str | None = None
    """In the refusal of both; None: both accept."""
    is_change: bool = False

    @property
    def obj(self) -> Obj:
        """The object."""
        spec = {key: value for key, value in (BASE["spec"] | dict(self.spec)).items() if value is not None}
        return copy.deepcopy(BASE) | {"spec": spec}


CASES = (
    Case(name="the least", covers="", spec={}),
    Case(name="no group", covers="", spec={"replicas": 0}),
    Case(name="less than none", covers="", spec={"replicas": -1}, refused="greater than or equal to 0"),
    Case(name="too many", covers="", spec={"replicas": 1025}, refused="less than or equal to 1024"),
    Case(name="no role", covers="", spec={"role": None}, refused="Required value"),
    Case(name="no service", covers="", spec={"serviceName": None}, refused="Required value"),
    Case(name="another role", covers="", spec={"role": "Draft"}, refused="supported values"),
    Case(name="no name of a service", covers="", spec={"serviceName": "Deep_Seek"}, refused=NAME),
    Case(name="bounds", covers="autoscaling-bounds", spec={"autoscaling": SCALING | {"minReplicas": 4}}),
    Case(
        name="bounds that cross",
        covers="autoscaling-bounds",
        spec={"autoscaling": SCALING | {"minReplicas": 5}},
        refused=BOUNDS,
    ),
    Case(name="decode by saturation", covers="decode-ttft", spec={"autoscaling": SCALING}),
    Case(
        name="prefill by TTFT",
        covers="decode-ttft",
        spec={"role": "Prefill", "autoscaling": SCALING | {"targetTTFT": "2s"}},
    ),
    Case(
        name="decode by TTFT",
        covers="decode-ttft",
        spec={"autoscaling": SCALING | {"targetTTFT": "2s"}},
        refused=FIRST_TOKEN,
    ),
    Case(name="scaled", covers="service-immutable", spec={"replicas": 3}, is_change=True),
    Case(
        name="another service",
        covers="service-immutable",
        spec={"serviceName": "other"},
        refused=SERVICE,
        is_change=True,
    ),
    Case(name="with a scaler", covers="role-immutable", spec={"autoscaling": SCALING}, is_change=True),
    Case(
        name="prefill instead",
        covers="role-immutable",
        spec={"role": "Prefill"},
        refused=ROLE,
        is_change=True,
    ),
)
