"""`hortator plan`: what the operator makes of an LLMService, without a cluster.

First the layout, which DP ranks run on which pod and what its node must have; then every object; then what is
worth a warning. With `-o yaml` the objects themselves, with warnings on standard error. With `-o lws` what
takes their place where LeaderWorkerSet, not the operator, looks after the groups: rendered, never run. Two
things are known only on a cluster: the nodes, and the uids of objects, which the names of identity Secrets,
of gangs and of the record of the spec depend on.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import yaml
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hortator.api.arithmetic import Problem, num_ranks, world_size
from hortator.api.files import Manifest, ManifestError, load_manifest
from hortator.api.v1alpha1 import LLMService, RoleSpec
from hortator.cli.console import stderr, stdout
from hortator.cli.errors import CommandError
from hortator.operator.accepted import is_record
from hortator.operator.advice import warnings
from hortator.operator.desired import Desired, DesiredGroup, desired
from hortator.operator.manifests import engine, lws
from hortator.operator.manifests.gang import PROVIDERS
from hortator.operator.objects import Obj
from hortator.operator.observed.scalers import scalers_of
from hortator.operator.options import Images, Options
from hortator.operator.revision import hash_of, role_of, template_of
from hortator.operator.scalers import scaled
from hortator.operator.topology import ranks_text

OUTPUTS = ("table", "yaml", "lws")
LWS_NOTE = (
    "note: rendered, never run. Without the operator no group is drained before it goes, no room is looked "
    "for, no node is avoided and no status is written (docs/how-to/gang.md)"
)
UNKNOWN_UID = "00000000-0000-0000-0000-000000000000"


def run(*, file: Path, output: str, registry: str, as_json: bool) -> None:
    """Print the plan. Raises CommandError: the file is no valid LLMService, one line per problem."""
    if output not in OUTPUTS:
        raise CommandError(f"--output: got {output!r} (allowed: {', '.join(OUTPUTS)})")
    try:
        service = _scaled(load_manifest(file), file)
    except ManifestError as error:
        raise CommandError(error.lines) from None
    images = Images.of_version(version("hortator"), registry=registry.rstrip("/"))
    wanted = desired(service, uid=UNKNOWN_UID, options=Options(images=images))
    advice = warnings(service)
    if as_json:
        print(json.dumps(document(service, wanted, advice), indent=2))
    elif output == "yaml":
        print(yaml.safe_dump_all(wanted.objects(), sort_keys=False, width=110), end="")
        for line in advice:
            stderr().print(f"warning: {line}", markup=False)
    elif output == "lws":
        _print_lws(service, wanted)
    else:
        stdout().print(render(service, wanted, advice))


def _scaled(manifest: Manifest, file: Path) -> LLMService:
    """The service with as many groups as its scalers in the same file say."""
    service = manifest.service
    if service is None:
        raise ManifestError([f"{file}: kind: no LLMService in it (LLMServiceScalers alone make no pods)"])
    objects = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in manifest.scalers]
    for scaler, obj in zip(manifest.scalers, objects, strict=True):
        obj["metadata"]["namespace"] = scaler.metadata.own_namespace
    namespace = service.metadata.own_namespace
    return scaled(service, scalers_of(objects, namespace=namespace, service=service.metadata.name))


def _print_lws(service: LLMService, wanted: Desired) -> None:
    if service.spec.placement.gang.provider in PROVIDERS:
        provider = service.spec.placement.gang.provider
        raise CommandError(
            f"--output lws: got spec.placement.gang.provider {provider} (allowed: Builtin, None; "
            "LeaderWorkerSet has gangs of its own)"
        )
    print(yaml.safe_dump_all(lws_objects(service, wanted), sort_keys=False, width=110), end="")
    print(LWS_NOTE, file=sys.stderr)
    for role in service.spec.roles:
        name = lws.secret_name(service, role)
        print(f"note: its pods need Secret {name} with a random entry {engine.IDENTITY_KEY}", file=sys.stderr)


def lws_objects(service: LLMService, wanted: Desired) -> list[Obj]:
    """What there is without an LLMService: nobody owns it, so `kubectl delete` is what takes it away."""
    own = [*wanted.shared, *([wanted.prefetch] if wanted.prefetch else [])]
    shared = [
        obj | {"metadata": {k: v for k, v in obj["metadata"].items() if k != "ownerReferences"}}
        for obj in own
    ]
    revisions = {role_of(obj): obj for obj in wanted.revisions}
    return shared + [
        lws.leader_worker_set(
            service,
            role,
            template=template_of(revisions[role.name]),
            revision=hash_of(revisions[role.name]),
        )
        for role in service.spec.roles
    ]


def document(service: LLMService, wanted: Desired, advice: tuple[Problem, ...]) -> dict[str, object]:
    """The plan for machines."""
    return {
        "name": wanted.owner.name,
        "namespace": wanted.owner.namespace,
        "numRanks": num_ranks(service),
        "groups": [
            {
                "name": group.name,
                "role": group.role,
                "index": group.index,
                "workerId": group.worker_id,
                "revision": group.revision,
                "members": [
                    {"ordinal": member.ordinal, "pod": member.pod, "ranks": list(member.ranks)}
                    for member in group.members
                ],
            }
            for group in wanted.groups
        ],
        "warnings": [{"field": line.path, "message": line.message} for line in advice],
        "objects": list(wanted.objects()),
    }


def render(service: LLMService, wanted: Desired, advice: tuple[Problem, ...]) -> RenderableType:
    """The plan for people."""
    parts: list[RenderableType] = [_headline(service, wanted), _layout(service, wanted), _objects(wanted)]
    if advice:
        parts.append(Text("\nwarnings", style="italic"))
        parts += [Text.assemble((f"{line.path}: ", "yellow"), line.message) for line in advice]
    return Group(*parts)


def _headline(service: LLMService, wanted: Desired) -> Text:
    spec = service.spec
    num_gpus = sum(world_size(group.group.role) for group in wanted.groups)
    gpus = f" on {num_gpus} GPUs" if spec.engine.backend == "TensorRTLLM" else " on CPUs"
    num_pods = sum(group.num_members for group in wanted.groups)
    return Text.assemble(
        (f"{wanted.owner.namespace}/{wanted.owner.name}", "bold"),
        f": {service.model_name} on {spec.engine.backend}, {spec.topology}: ",
        f"{len(wanted.groups)} EP groups of {num_pods} pods, {num_ranks(service)} DP ranks{gpus}; ",
        f"policy {spec.scheduler.policy}\n",
    )


def _layout(service: LLMService, wanted: Desired) -> Table:
    table = _table("DP ranks", "worker", "revision", "pod", "ranks", "node")
    for group in wanted.groups:
        cells = [group.worker_id, group.revision]
        for member in group.members:
            table.add_row(*cells, member.pod, ranks_text(member.ranks), _node(service, group))
            cells = [""] * len(cells)
    return table


def _node(service: LLMService, group: DesiredGroup) -> str:
    """What the node of a pod must have: nodes are known only to the cluster."""
    role: RoleSpec = group.group.role
    needs = [f"{key}={value}" for key, value in role.node_selector.items()]
    if service.spec.engine.backend == "TensorRTLLM":
        needs.insert(0, f"own, {role.gpus_per_node} {role.gpu_resource_name}")
    if service.spec.placement.topology_key and role.nodes > 1:
        verb = "one" if service.spec.placement.mode == "Required" else "preferably one"
        needs.append(f"{verb} {service.spec.placement.topology_key} per group")
    return ", ".join(needs) or "any"


def _objects(wanted: Desired) -> Table:
    objects = list(wanted.objects())
    table = _table(f"\n{len(objects)} objects", "kind", "name", "what")
    kinds = Counter(obj["kind"] for obj in objects)
    for kind in kinds:
        label = kind
        for obj in objects:
            if obj["kind"] == kind:
                table.add_row(label, _name(obj), _what(obj))
                label = ""
    return table


def _name(obj: Obj) -> str:
    """Some names end with a hash of the uid, which no manifest has."""
    name: str = obj["metadata"]["name"]
    has_uid = obj["kind"] in {"Secret", "PodGroup"} or (
        obj["kind"] == "ControllerRevision" and is_record(obj)
    )
    return f"{name.rpartition('-')[0]}-*" if has_uid else name


def _what(obj: Obj) -> str:
    spec = obj.get("spec", {})
    match obj["kind"]:
        case "StatefulSet" | "Deployment":
            container = spec["template"]["spec"]["containers"][0]
            requests = {**container["resources"]["requests"], **container["resources"]["limits"]}
            sizes = ", ".join(f"{amount} {name}" for name, amount in requests.items())
            return f"{spec['replicas']} x {container['image']} ({sizes})"
        case "Service":
            kind = "headless" if spec.get("clusterIP") == "None" else spec["type"]
            return f"{kind}, " + ", ".join(f"{port['name']} {port['port']}" for port in spec["ports"])
        case "PersistentVolumeClaim":
            return f"{spec['resources']['requests']['storage']}, {', '.join(spec['accessModes'])}"
        case "Job":
            return " ".join(spec["template"]["spec"]["containers"][0]["command"])
        case "ControllerRevision":
            return "the spec, kept while a later one is invalid" if is_record(obj) else "frozen pod template"
        case "PodDisruptionBudget":
            return "no pod is evicted until its group is drained"
        case "NetworkPolicy":
            return "who reaches its pods, and whom they reach"
        case "PodGroup":
            return f"all {spec['minMember']} pods of a group or none"
        case "Secret":
            return "content made when it is created"
        case _:
            return ""


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header, no_wrap=True)
    return table
