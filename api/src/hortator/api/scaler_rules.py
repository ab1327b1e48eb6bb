"""What the fields of an LLMServiceScaler must satisfy together, and which of them never change."""

from __future__ import annotations

from collections.abc import Iterator

from hortator.api.v1alpha1 import LLMServiceScaler
from hortator.api.validation import Found, Rule, Transition


def _autoscaling_bounds(scaler: LLMServiceScaler) -> Iterator[Found]:
    scaling = scaler.spec.autoscaling
    if scaling is not None and scaling.min_replicas > scaling.max_replicas:
        yield "spec.autoscaling.minReplicas", f"{scaling.min_replicas} and {scaling.max_replicas}"


def _decode_ttft(scaler: LLMServiceScaler) -> Iterator[Found]:
    scaling = scaler.spec.autoscaling
    if scaler.spec.role == "Decode" and scaling is not None and scaling.target_ttft_s is not None:
        yield "spec.autoscaling.targetTTFT", f"{scaling.target_ttft_s:g} s with role Decode"


def _changed_service(old: LLMServiceScaler, new: LLMServiceScaler) -> Iterator[Found]:
    if old.spec.service_name != new.spec.service_name:
        yield "spec.serviceName", f"{old.spec.service_name}, then {new.spec.service_name}"


def _changed_role(old: LLMServiceScaler, new: LLMServiceScaler) -> Iterator[Found]:
    if old.spec.role != new.spec.role:
        yield "spec.role", f"{old.spec.role}, then {new.spec.role}"


SCALER_RULES: tuple[Rule[LLMServiceScaler], ...] = (
    Rule(
        name="autoscaling-bounds",
        at="spec.autoscaling",
        field="minReplicas",
        cel="self.minReplicas <= self.maxReplicas",
        message="minReplicas must not be above maxReplicas",
        find=_autoscaling_bounds,
    ),
    Rule(
        name="decode-ttft",
        at="spec",
        field="autoscaling.targetTTFT",
        cel="self.role != 'Decode' || !has(self.autoscaling) || !has(self.autoscaling.targetTTFT)",
        message="only with role Prefill or Aggregated: decode groups have no part in the time to first token",
        find=_decode_ttft,
    ),
)
SCALER_TRANSITIONS: tuple[Transition[LLMServiceScaler], ...] = (
    Transition(
        name="service-immutable",
        at="spec",
        field="serviceName",
        cel="self.serviceName == oldSelf.serviceName",
        message="serviceName cannot change: make another LLMServiceScaler",
        find=_changed_service,
    ),
    Transition(
        name="role-immutable",
        at="spec",
        field="role",
        cel="self.role == oldSelf.role",
        message="role cannot change: make another LLMServiceScaler",
        find=_changed_role,
    ),
)
