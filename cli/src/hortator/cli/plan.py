"""`hortator plan`: what the operator makes of an LLMService, without a cluster.

First the layout, which DP ranks run on which pod and what its node must have; then every object; then what is
worth a warning. With `-o yaml` the objects themselves, with warnings on standard error. Two things are known
only on a cluster: the nodes, and the uid of the LLMService, which the names of identity Secrets and of the
record of the spec depend on.
"""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import yaml
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hortator.api.arithmetic import Problem, num_ranks, world_size
from hortator.api.files import ManifestError, load_llmservice
from hortator.api.v1alpha1 import LLMService, RoleSpec
from hortator.cli.console import stderr, stdout
from hortator.cli.errors import CommandError
from hortator.operator.accepted import is_record
from hortator.operator.advice import warnings
from hortator.operator.desired import Desired, DesiredGroup, desired
from hortator.operator.objects import Obj
from hortator.operator.options import Images, Options
from hortator.operator.topology import ranks_text

OUTPUTS = ("table", "yaml")
UNKNOWN_UID = "00000000-0000-0000-0000-000000000000"


def run(*, file: Path, output: str, registry: str, as_json: bool) -> None:
    """Print the plan. Raises CommandError: the file is no valid LLMService, one line per problem."""
    if output not in OUTPUTS:
        raise CommandError(f"--output: got {output!r} (allowed: {', '.join(OUTPUTS)})")
    try:
        service = load_llmservice(file)
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
    else:
        stdout().print(render(service, wanted, advice))


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
    has_uid = obj["kind"] == "Secret" or (obj["kind"] == "ControllerRevision" and is_record(obj))
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
        case "Secret":
            return "content made when it is created"
        case _:
            return ""


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header, no_wrap=True)
    return table
