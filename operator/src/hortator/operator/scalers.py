"""Which LLMServiceScaler says how many groups a role has, and the service with these numbers in it.

A role belongs to the oldest valid scaler that names it; any other says `Conflict` and changes nothing. What
it says takes the place of `replicas` of the role in everything that is decided, and nowhere else: the
LLMService itself is never rewritten, and without its scaler a role has as many groups as it says.

The number of groups reaches no pod template, so a scale starts and drains groups and rolls none (`revision`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hortator.api.rules import MAX_GROUPS_PER_ROLE
from hortator.api.v1alpha1 import API_VERSION, LLMService, LLMServiceScaler, RoleName
from hortator.api.v1alpha1.scaler import SCALER_KIND
from hortator.operator.objects import Ref
from hortator.operator.observed.scalers import ScalerFacts
from hortator.operator.status.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleScaler:
    """What has become of one scaler."""

    facts: ScalerFacts
    scaler: LLMServiceScaler | None
    """It says how many groups its role has; None: it does not, for `reason`."""
    num_groups: int
    """Groups of the role per role set, by what it says."""
    reason: Reason
    message: str

    @property
    def role(self) -> RoleName | None:
        """The role that is its own."""
        return self.scaler.spec.role if self.scaler is not None else None

    @property
    def ref(self) -> Ref:
        """Of the scaler."""
        facts = self.facts
        return Ref(api_version=API_VERSION, kind=SCALER_KIND, namespace=facts.namespace, name=facts.name)


def role_scalers(found: Sequence[ScalerFacts], service: LLMService) -> tuple[RoleScaler, ...]:
    """Every scaler that names this service, the oldest first, as `found` is."""
    roles = {role.name: role for role in service.spec.roles}
    owners: dict[RoleName, str] = {}
    verdicts: list[RoleScaler] = []
    for facts in found:
        scaler = facts.scaler
        if scaler is None:
            verdicts.append(_refused(facts, Reason.INVALID_SPEC, _problems(facts)))
            continue
        role, owner = roles.get(scaler.spec.role), owners.get(scaler.spec.role)
        if role is None:
            message = f"LLMService {service.metadata.name} has no role {scaler.spec.role}, but "
            verdicts.append(_refused(facts, Reason.ROLE_NOT_FOUND, message + " and ".join(roles)))
        elif owner is not None:
            message = f"role {role.name} belongs to LLMServiceScaler {owner}, which is older"
            verdicts.append(_refused(facts, Reason.CONFLICT, message))
        else:
            owners[role.name] = facts.name
            asked = role.replicas if scaler.spec.replicas is None else scaler.spec.replicas
            most = MAX_GROUPS_PER_ROLE // max(1, service.spec.replicas)
            message = f"role {role.name} has {min(asked, most)} groups per role set"
            if asked > most:
                message += f", and not {asked}: a role has at most {MAX_GROUPS_PER_ROLE} in all"
            reason = Reason.ROLE_SCALED
            if facts.problems:
                reason, message = Reason.INVALID_SPEC, f"{message}; nothing else is done: {_problems(facts)}"
            verdicts.append(
                RoleScaler(
                    facts=facts, scaler=scaler, num_groups=min(asked, most), reason=reason, message=message
                )
            )
    return tuple(verdicts)


def refused(found: Sequence[ScalerFacts], reason: Reason, message: str) -> tuple[RoleScaler, ...]:
    """The scalers of a service of which nothing is carried out."""
    return tuple(_refused(facts, reason, message) for facts in found)


def scaled(service: LLMService, found: Sequence[ScalerFacts]) -> LLMService:
    """The service with as many groups of each role as its scalers say."""
    numbers = {one.role: one.num_groups for one in role_scalers(found, service) if one.scaler is not None}
    if all(numbers.get(role.name, role.replicas) == role.replicas for role in service.spec.roles):
        return service
    roles = tuple(
        role.model_copy(update={"replicas": numbers.get(role.name, role.replicas)})
        for role in service.spec.roles
    )
    return service.model_copy(update={"spec": service.spec.model_copy(update={"roles": roles})})


def _problems(facts: ScalerFacts) -> str:
    return "; ".join(map(str, facts.problems))


def _refused(facts: ScalerFacts, reason: Reason, message: str) -> RoleScaler:
    return RoleScaler(facts=facts, scaler=None, num_groups=0, reason=reason, message=message)
