"""What may not change in an LLMService that serves.

Groups of two shapes, or of two topologies, must never run side by side under one name: such a change waits
until the service is suspended. The operator acts on it only when condition Suspended is True.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import BaseModel

from hortator.api.v1alpha1 import LLMService
from hortator.api.validation import Found, Transition


def _changed_topology(old: LLMService, new: LLMService) -> Iterator[Found]:
    if not _stays_suspended(old, new) and old.spec.topology != new.spec.topology:
        yield "spec.topology", f"{old.spec.topology}, then {new.spec.topology}"


def _changed_roles(old: LLMService, new: LLMService) -> Iterator[Found]:
    before, after = ([role.name for role in service.spec.roles] for service in (old, new))
    if not _stays_suspended(old, new) and Counter(before) != Counter(after):
        yield "spec.roles", f"{', '.join(before)}, then {', '.join(after)}"


def _changed_shape(old: LLMService, new: LLMService) -> Iterator[Found]:
    if _stays_suspended(old, new):
        return
    before = {role.name: role for role in old.spec.roles}
    for index, role in enumerate(new.spec.roles):
        was = before.get(role.name)
        for field, then, now in (
            () if was is None else (
                ("nodes", was.nodes, role.nodes),
                ("gpusPerNode", was.gpus_per_node, role.gpus_per_node),
                ("gpuResourceName", was.gpu_resource_name, role.gpu_resource_name),
                ("parallelism", _written(was.parallelism), _written(role.parallelism)),
            )
        ):  # fmt: skip
            if then != now:
                yield f"spec.roles[{index}].{field}", f"{then}, then {now}"


def _changed_hand_over(old: LLMService, new: LLMService) -> Iterator[Found]:
    before = {role.name: role.kv_cache_dtype for role in old.spec.roles}
    if _stays_suspended(old, new) or new.spec.topology != "PrefillDecode":
        return
    for index, role in enumerate(new.spec.roles):
        was = before.get(role.name, role.kv_cache_dtype)
        if was != role.kv_cache_dtype:
            found = f"{was}, then {role.kv_cache_dtype}"
            yield f"spec.roles[{index}].tensorrtLLM.kvCacheDtype", found


def _changed_claim(old: LLMService, new: LLMService) -> Iterator[Found]:
    before, after = old.spec.model.cache, new.spec.model.cache
    if before and after and before.create and after.create and before.create != after.create:
        yield "spec.model.cache.create", f"{_written(before.create)}, then {_written(after.create)}"


def _changed_tls(old: LLMService, new: LLMService) -> Iterator[Found]:
    before, after = (service.spec.security.tls is not None for service in (old, new))
    if not _stays_suspended(old, new) and before != after:
        yield "spec.security.tls", f"{'there' if before else 'absent'}, then {'there' if after else 'absent'}"


def _written(model: BaseModel) -> str:
    fields = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return " ".join(f"{name} {value}" for name, value in fields.items())


def _stays_suspended(old: LLMService, new: LLMService) -> bool:
    return old.spec.suspend and new.spec.suspend


_SUSPENDED = "oldSelf.suspend && self.suspend || "
_WHEN = "may change only while suspend is true before and after"

TRANSITIONS: tuple[Transition[LLMService], ...] = (
    Transition(
        name="topology-immutable",
        at="spec",
        field="topology",
        cel=f"{_SUSPENDED}self.topology == oldSelf.topology",
        message=f"topology {_WHEN}",
        find=_changed_topology,
    ),
    Transition(
        name="roles-immutable",
        at="spec",
        field="roles",
        cel=f"{_SUSPENDED}self.roles.size() == oldSelf.roles.size()"
        " && self.roles.all(r, oldSelf.roles.exists(o, o.name == r.name))",
        message=f"the names of the roles {_WHEN}",
        find=_changed_roles,
    ),
    Transition(
        name="shape-immutable",
        at="spec",
        field="roles",
        cel=f"{_SUSPENDED}self.roles.all(r, oldSelf.roles.all(o, o.name != r.name || o.nodes == r.nodes"
        " && o.gpusPerNode == r.gpusPerNode && o.gpuResourceName == r.gpuResourceName"
        " && o.parallelism == r.parallelism))",
        message=f"nodes, gpusPerNode, gpuResourceName and parallelism of a role {_WHEN}",
        find=_changed_shape,
    ),
    Transition(
        name="hand-over-immutable",
        at="spec",
        field="roles",
        cel=f"{_SUSPENDED}self.topology != 'PrefillDecode'"
        " || self.roles.all(r, oldSelf.roles.all(o, o.name != r.name"
        " || (has(o.tensorrtLLM) ? o.tensorrtLLM.kvCacheDtype : 'auto')"
        " == (has(r.tensorrtLLM) ? r.tensorrtLLM.kvCacheDtype : 'auto')))",
        message=f"kvCacheDtype of roles that hand over KV {_WHEN}",
        find=_changed_hand_over,
    ),
    Transition(
        name="claim-immutable",
        at="spec.model.cache",
        field="create",
        cel="!has(oldSelf.create) || !has(self.create) || oldSelf.create == self.create",
        message="create cannot change: make another claim and name it in claimName",
        find=_changed_claim,
    ),
    Transition(
        name="tls-immutable",
        at="spec",
        field="security.tls",
        cel=f"{_SUSPENDED}has(self.security.tls) == has(oldSelf.security.tls)",
        message=f"whether there is security.tls {_WHEN}",
        find=_changed_tls,
    ),
)
