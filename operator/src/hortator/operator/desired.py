"""What should be there for one LLMService: every object, and builders for what depends on the moment.

    desired(service, uid=..., options=..., generation=..., revisions=...) -> Desired
    carried_out(obj, parsed, options=..., children=...) -> the accepted spec and its Desired

Pure and total: every LLMService that `hortator.api` accepts has an answer, and the same input has the same
one. What changes over a group's life (its epoch, whether it is admitted, the operator's notes on it) is not
known here: `DesiredGroup.statefulset` and `pdb` take it as arguments.

`spec.suspend` changes nothing here. A suspended service wants the same objects; the plan admits none of its
groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hortator.api.parse import Parsed
from hortator.api.v1alpha1 import GangSpec, LLMService, RoleName
from hortator.operator import names, topology
from hortator.operator.accepted import accepted, record_of
from hortator.operator.certificates import Wanted
from hortator.operator.certificates import wanted as wanted_certificates
from hortator.operator.manifests import accounts, cache, disruption, gang, gateway, group, network, scheduler
from hortator.operator.manifests.metadata import Owner
from hortator.operator.objects import Obj
from hortator.operator.observed import scalers_of
from hortator.operator.observed.reading import mapping, text
from hortator.operator.options import Options
from hortator.operator.revision import Revision, hash_of, revision_of, role_of, template_of
from hortator.operator.scalers import scaled

__all__ = ["Desired", "DesiredGroup", "Options", "desired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredGroup:
    """One EP group."""

    role: RoleName
    index: int
    """Over all role sets."""
    name: str
    """Of its StatefulSet, headless Service and PodDisruptionBudget."""
    worker_id: str
    """What the scheduler calls it."""
    revision: str
    """The revision that it is made from."""
    num_members: int
    num_ranks: int
    role_set: int
    """The replica of the service that it belongs to."""
    scale_unit_pod: str | None
    """The pod that carries the label `scale-unit`, when this group is its role set's scale unit.

    The template has the label when the group is one pod. In a larger group all pods have one template, so the
    operator labels this pod itself.
    """
    members: tuple[topology.Member, ...]
    """Its pods and their DP ranks."""
    service: Obj
    """The headless Service."""
    identity: Obj
    """The Secret without its content, which `manifests.group.with_token` adds.

    It is created, never read; that it exists is fine.
    """
    group: topology.Group
    owner: Owner
    template: Obj
    """The frozen template of `revision`."""
    gang: GangSpec | None
    """What its pods are told of another scheduler, which sees to their gang; None: no other does."""
    drain_timeout_s: float

    def statefulset(
        self,
        *,
        epoch: int,
        replicas: int,
        annotations: Mapping[str, str],
        domain: tuple[str, str] | None = None,
        avoided: frozenset[str] = frozenset(),
        uid: str = "",
    ) -> Obj:
        """The whole object as it is applied: what is left out of `annotations` goes.

        `replicas` is 0 until the group is admitted, then `num_members`; `domain` binds all members to a node
        label, and they are placed on none of the nodes `avoided`. `uid` is that of the StatefulSet, which its
        members know each other by.
        """
        return group.statefulset(
            self.group,
            owner=self.owner,
            template=self.template,
            revision=self.revision,
            epoch=epoch,
            replicas=replicas,
            drain_timeout_s=self.drain_timeout_s,
            annotations=annotations,
            domain=domain,
            avoided=avoided,
            uid=uid,
        )

    def at(self, revision: Obj) -> DesiredGroup:
        """The same group as it is made from another ControllerRevision."""
        return replace(
            self,
            revision=hash_of(revision),
            template=template_of(revision),
            gang=gang.of_revision(revision),
        )

    def pod_group(self, *, epoch: int, uid: str) -> Obj | None:
        """By what another scheduler, which sees to gangs, knows one epoch of the group; None: nothing."""
        if self.gang is None:
            return None
        name = names.pod_group_name(self.name, uid, epoch)
        return gang.pod_group(self.gang, self.group, name=name, owner=self.owner)

    def pdb(self, *, is_open: bool) -> Obj:
        """The PodDisruptionBudget: closed, or open for all members."""
        return disruption.budget(self.group, owner=self.owner, is_open=is_open)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """Everything that should be there for one LLMService."""

    owner: Owner
    record: Obj
    """The ControllerRevision that keeps this very spec, for an operator that starts beside an invalid one."""
    generation: int
    """Of the LLMService when it said this."""
    groups: tuple[DesiredGroup, ...]
    """Role by role, by index."""
    surge: tuple[DesiredGroup, ...]
    """Groups that may stand beside these while they move to another revision (spec.rollout.maxSurge)."""
    shared: tuple[Obj, ...]
    """Service account, NetworkPolicies, cache, scheduler, gateway: applied as they are, in this order."""
    prefetch: Obj | None
    """The Job that fills the cache; its template cannot change.

    Where the label `revision` differs, it is to be deleted and made again.
    """
    revisions: tuple[Obj, ...]
    """One ControllerRevision per role: the one that exists, or the one to create."""
    certificates: Wanted | None = None
    """Secrets that the operator makes; None: others do, or there are none."""

    def group(self, role: RoleName, index: int) -> DesiredGroup | None:
        """The group of that name; None when it is not wanted any more."""
        return next((one for one in self.groups if one.role == role and one.index == index), None)

    def update_revision(self, role: RoleName) -> str:
        """The revision that the groups of a role should run."""
        return next((hash_of(obj) for obj in self.revisions if role_of(obj) == role), "")

    def objects(self, *, epoch: int = 1) -> Iterator[Obj]:
        """Every object of a service whose groups are all admitted: what `hortator plan` prints."""
        yield self.record
        yield from self.shared
        if self.prefetch is not None:
            yield self.prefetch
        yield from self.revisions
        for one in self.groups:
            yield from (one.service, one.identity, one.pdb(is_open=False))
            pod_group = one.pod_group(epoch=epoch, uid="")
            if pod_group is not None:
                yield pod_group
            yield one.statefulset(epoch=epoch, replicas=one.num_members, annotations={})


def carried_out(
    obj: Obj, parsed: Parsed, *, options: Options, children: Iterable[Obj]
) -> tuple[LLMService, Desired] | tuple[None, None]:
    """The spec that is carried out for an LLMService as the API server has it, and what should be there.

    That is what it says or, where that breaks a rule, what it said last (`accepted`), with as many groups
    of a role as its LLMServiceScaler says (`scalers`). `parsed` is what `obj` says, `children` are the
    objects that exist for it, the scalers among them. (None, None) when there is no such spec.
    """
    children = tuple(children)
    revisions = [child for child in children if child["kind"] == "ControllerRevision"]
    kept = accepted(obj, parsed, known=revisions)
    if kept is None:
        return None, None
    uid, meta = text(obj, "metadata", "uid"), mapping(obj, "metadata")
    found = scalers_of(children, namespace=text(meta, "namespace"), service=text(meta, "name"))
    service = scaled(kept.service, found)
    wanted = desired(service, uid=uid, options=options, generation=kept.generation, revisions=revisions)
    record = record_of(kept.service, generation=kept.generation, owner=wanted.owner)
    return service, replace(wanted, record=record)


def desired(
    service: LLMService, *, uid: str, options: Options, generation: int = 1, revisions: Sequence[Obj] = ()
) -> Desired:
    """What should be there.

    `uid` and `generation` are those of the LLMService when it said this; `revisions` are the
    ControllerRevisions that exist, whose templates win.
    """
    owner = Owner.of(service, uid)

    def group_of(one: topology.Group) -> DesiredGroup:
        return _group(service, one, wanted[one.role_name], owner=owner)

    wanted = {
        role.name: revision_of(
            service, role, owner=owner, options=options, generation=generation, known=revisions
        )
        for role in service.spec.roles
    }
    claim = cache.claim(service, owner=owner)
    return Desired(
        owner=owner,
        generation=generation,
        record=record_of(service, generation=generation, owner=owner),
        groups=tuple(map(group_of, topology.groups(service))),
        surge=tuple(map(group_of, topology.surge_groups(service))),
        shared=(
            accounts.account(owner),
            *network.policies(service, owner=owner, options=options),
            *([claim] if claim else []),
            scheduler.headless_service(owner=owner),
            *scheduler.budgets(service, owner=owner),
            scheduler.deployment(service, owner=owner, options=options),
            gateway.client_service(service, owner=owner),
            gateway.deployment(service, owner=owner, options=options),
        ),
        prefetch=cache.prefetch(service, owner=owner, options=options),
        revisions=tuple(revision.obj for revision in wanted.values()),
        certificates=wanted_certificates(service, owner=owner, options=options),
    )


def _group(service: LLMService, one: topology.Group, revision: Revision, *, owner: Owner) -> DesiredGroup:
    name = names.group_name(owner.name, one.role_name, one.index)
    return DesiredGroup(
        role=one.role_name,
        index=one.index,
        name=name,
        worker_id=names.worker_id(one.role_name, one.index),
        revision=revision.hash,
        num_members=one.role.nodes,
        num_ranks=one.role.parallelism.attention_dp,
        role_set=topology.role_set(one.role, one.index),
        scale_unit_pod=f"{name}-0" if one.is_scale_unit else None,
        members=topology.members(service, one),
        service=group.headless_service(one, owner=owner),
        identity=group.identity(one, owner=owner),
        group=one,
        owner=owner,
        template=revision.template,
        gang=gang.of_revision(revision.obj),
        drain_timeout_s=service.spec.drain.timeout_s,
    )
