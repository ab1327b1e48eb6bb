"""Revisions of an LLMService: what its ControllerRevisions say, and the spec that goes back to one of them.

A revision holds the fields of a role that reach its pods, without those at their default (`pod_fields`).
Going back means to change in the spec what differs from these fields, and nothing else: replicas, scheduler,
rollout and all the rest stay as they are. The spec stays the only thing that is wanted; no object but the
LLMService is changed.

`restored` proves its answer: the spec that it gives has the very hash of the revision. Pure.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hortator.api.parse import parse
from hortator.api.v1alpha1 import API_VERSION, KIND, LLMService, RoleName
from hortator.cli.errors import EXIT_USAGE, CommandError
from hortator.operator import names
from hortator.operator.accepted import is_record
from hortator.operator.objects import Obj
from hortator.operator.observed.reading import is_owned_by, mapping, number, text, texts
from hortator.operator.revision import hash_of, pod_fields, revision_hash, role_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One revision of a role."""

    role: RoleName
    number: int
    hash: str
    created_at: str
    generation: int
    """Of the LLMService that first asked for it; 0: not noted."""
    fields: Obj
    num_groups: int
    """That run it."""
    is_wanted: bool
    """The spec asks for it."""


def history(service: Obj, children: Iterable[Obj]) -> list[Revision]:
    """Every revision that is kept, role by role, the oldest first."""
    objects = list(children)
    uid = text(service, "metadata", "uid")
    wanted = wanted_hashes(service)
    running = Counter(
        (role_of(one), hash_of(mapping(one, "spec", "template")))
        for one in objects
        if one.get("kind") == "StatefulSet" and is_owned_by(one, uid)
    )
    found = []
    for one in objects:
        role = role_of(one)
        is_ours = one.get("kind") == "ControllerRevision" and is_owned_by(one, uid) and not is_record(one)
        if not is_ours or role is None:
            continue
        generation = texts(one, "metadata", "annotations").get(names.ANNOTATION_GENERATION, "")
        found.append(
            Revision(
                role=role,
                number=number(one, "revision"),
                hash=hash_of(one),
                created_at=text(one, "metadata", "creationTimestamp"),
                generation=int(generation) if generation.isdecimal() else 0,
                fields=mapping(one, "data", "fields"),
                num_groups=running[role, hash_of(one)],
                is_wanted=wanted.get(role) == hash_of(one),
            )
        )
    order = list(wanted)
    return sorted(found, key=lambda one: (order.index(one.role) if one.role in order else 9, one.number))


def wanted_hashes(service: Obj) -> Mapping[RoleName, str]:
    """What the spec asks for, by role. Empty for a spec that breaks a rule."""
    parsed = parse(service)
    if parsed.service is None or parsed.problems:
        return {}
    return {role.name: revision_hash(parsed.service, role) for role in parsed.service.spec.roles}


def changes(before: Obj | None, after: Obj) -> list[str]:
    """What differs between the fields of two revisions, one line each; empty for the first."""
    if before is None:
        return []
    old, new = _flat(before), _flat(after)
    return [
        f"{path}: {old.get(path, 'default')} -> {new.get(path, 'default')}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def chosen(found: Sequence[Revision], *, role: str | None, number: int | None) -> list[Revision]:
    """The revisions to go back to.

    Without a number: while groups are still to move, what they run; else what was before the last change.
    With one: that of the role named, or of the only one.

    Raises:
        CommandError: there is no such revision, or several answers are as good.
    """
    known = list(dict.fromkeys(one.role for one in found))
    if role is not None and role not in known:
        raise _wrong(f"--role {role}: no such role (allowed: {', '.join(known) or 'none'})")
    mine = [one for one in found if role in {None, one.role}]
    roles = list(dict.fromkeys(one.role for one in mine))
    if number is not None:
        return [_numbered(mine, number)]
    running = [one for name in roles if (one := _still_running(mine, name)) is not None]
    if running:
        return running
    return _before_the_last_change(mine)


def restored(service: Obj, targets: Sequence[Revision]) -> Obj:
    """The spec of an LLMService with the fields of these revisions.

    Raises:
        CommandError: they contradict each other, or this version cannot make one of them from its fields.
    """
    spec = copy.deepcopy(mapping(service, "spec"))
    shared = [
        (one, {key: one.fields.get(key) for key in ("model", "engine", "placement")}) for one in targets
    ]
    for one, said in shared[1:]:
        if said != shared[0][1]:
            first = shared[0][0]
            raise _wrong(
                f"{first.role} {first.number} and {one.role} {one.number} were never asked for together: "
                "name one of them (--role)"
            )
    for one in targets:
        spec = _put(service, spec, one)
    parsed = parse(_object(service, spec))
    for one in targets:
        now = parsed.service
        if now is None or parsed.problems:
            raise _wrong(f"revision {one.number} of role {one.role}: {'; '.join(map(str, parsed.problems))}")
        if revision_hash(now, now.role(one.role)) != one.hash:
            raise _wrong(_differs(now, one))
    return spec


def merge_patch(before: Any, after: Any) -> Any:
    """The JSON merge patch that leads from one to the other: None removes, lists go as a whole."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    patch: Obj = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key not in before:
            patch[key] = value
        elif before[key] != value:
            patch[key] = merge_patch(before[key], value)
    return patch


def merged(value: Any, patch: Any) -> Any:
    """What a JSON merge patch makes of a value."""
    if not isinstance(patch, dict):
        return patch
    found = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), change)
    return found


def _still_running(found: Sequence[Revision], role: RoleName) -> Revision | None:
    """What groups run that are still to move; the newest of it."""
    others = [one for one in found if one.role == role and one.num_groups and not one.is_wanted]
    return max(others, key=lambda one: one.number, default=None)


def _before_the_last_change(found: Sequence[Revision]) -> list[Revision]:
    wanted = [one for one in found if one.is_wanted]
    newest = max((one.generation for one in wanted), default=0)
    targets = []
    for one in wanted:
        mine = [other for other in found if other.role == one.role and other is not one]
        if one.generation != newest or not mine:
            continue
        if any(other.number > one.number for other in mine):
            raise _wrong(
                f"role {one.role} has been taken back to revision {one.number} already: say which one it "
                "should be (--to-revision; `hortator k8s rollout history` lists them)"
            )
        targets.append(max(mine, key=lambda other: other.number))
    if not targets:
        raise _wrong("there is no earlier revision to go back to (hortator k8s rollout history)")
    return targets


def _numbered(found: Sequence[Revision], number: int) -> Revision:
    fitting = [one for one in found if one.number == number]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        roles = ", ".join(one.role for one in fitting)
        raise _wrong(f"--to-revision {number}: of which role? (--role, allowed: {roles})")
    known = ", ".join(f"{one.role} {one.number}" for one in found)
    raise _wrong(f"--to-revision {number}: not kept (allowed: {known or 'none'})")


def _put(service: Obj, spec: Obj, target: Revision) -> Obj:
    """A spec with what differs from the fields of a revision changed to what they say."""
    parsed = parse(_object(service, spec))
    if parsed.service is None or parsed.problems:
        raise _wrong(f"the spec as it is breaks a rule: {'; '.join(map(str, parsed.problems))}")
    fields = pod_fields(parsed.service, parsed.service.role(target.role))
    patch = merge_patch(fields, target.fields)
    changed = dict(spec)
    for part in ("model", "engine", "placement"):
        if part in patch:  # a part that goes as a whole leaves what is no field of pods
            wanted = dict.fromkeys(mapping(fields, part)) if patch[part] is None else dict(patch[part])
            if "gang" in wanted and wanted["gang"] is None:  # its timeout stays
                wanted["gang"] = dict.fromkeys(mapping(fields, part, "gang"))
            changed[part] = merged(spec.get(part), wanted)
    if mapping(changed, "model").get("name") == text(service, "metadata", "name"):
        del changed["model"]["name"]  # it is that of the LLMService unless it is set
    changed["roles"] = [
        merged(one, patch.get("role", {})) if one.get("name") == target.role else one for one in spec["roles"]
    ]
    return changed


def _differs(service: LLMService, target: Revision) -> str:
    found = changes(target.fields, pod_fields(service, service.role(target.role)))
    more = "; ".join(found[:3]) or "it was made by a version of Hortator that counted other fields"
    return (
        f"revision {target.number} of role {target.role} cannot be had by its own fields alone: {more} "
        "(change spec by hand: kubectl edit llms)"
    )


def _object(service: Obj, spec: Obj) -> Obj:
    head = {key: text(service, "metadata", key) for key in ("name", "namespace")}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": head, "spec": spec}


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        below = [_flat(inner, f"{path}.{key}" if path else str(key)) for key, inner in value.items()]
        return {key: text for part in below for key, text in part.items()}
    return {} if value is None else {path: str(value)}


def _wrong(line: str) -> CommandError:
    return CommandError(line, exit_code=EXIT_USAGE)
