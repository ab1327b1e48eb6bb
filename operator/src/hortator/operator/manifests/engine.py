"""The pod template of a role: what the members of all its groups have in common.

The template is rendered once per revision and then frozen (see `revision`), so it holds no group's own values
but marks in their place, which `group` fills in:

    GROUP_NAME, GROUP_INDEX, WORKER_ID    of the group
    IDENTITY                              of the group's Secret
    INCARNATION                           of the group's StatefulSet
    gang.GROUP_NAME                       of an epoch of it, where another scheduler sees to gangs
    DRAIN_TIMEOUT_S                       follows the LLMService without a new revision

A value of the manifest that spells a mark is filled in as well.

Everything a process needs comes by environment variables; there is no ConfigMap. Members of a group are told
apart by their pod's name, from whose ordinal each takes its place. Backends on CPUs (Simulated, TorchMoE)
request no GPUs. A pod of TensorRTLLM requests its node's GPUs, and the RDMA ports that the role names. In a
group of several pods ordinal 0 starts the ranks of the others by ssh: they have a port for it and a name, and
all have the group's Secret, by which they know each other. No key is in any manifest: pods make theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from hortator.api import processes
from hortator.api.v1alpha1 import Backend, LLMService, RoleSpec, Toleration
from hortator.operator import names
from hortator.operator.manifests import accounts, cache, environment, gang, pods, security
from hortator.operator.manifests.metadata import Owner
from hortator.operator.objects import Obj
from hortator.operator.options import Options

GROUP_NAME = "@@GROUP_NAME@@"
GROUP_INDEX = "@@GROUP_INDEX@@"
WORKER_ID = "@@WORKER_ID@@"
IDENTITY = "@@IDENTITY@@"
INCARNATION = "@@INCARNATION@@"
DRAIN_TIMEOUT_S = "@@DRAIN_TIMEOUT_S@@"

PREFIX = "HORTATOR_WORKER_"
COMMAND = ("python", "-m", "hortator.worker")
IDENTITY_FOLDER = "/etc/hortator/identity"
IDENTITY_MODE = 0o440
IDENTITY_KEY = "token"
"""The entry of the group's Secret: random bytes that every member of a group, and nobody else, can read."""

SIMULATED_MILLICPUS, SIMULATED_MIB = 50, 512
TORCH_RANK_MILLICPUS, TORCH_BASE_MIB, TORCH_RANK_MIB = 200, 512, 512
"""Small, so that the samples fit on a node of two cores; a loaded engine takes what is free."""
TENSORRT_CPUS_PER_GPU, TENSORRT_GIB_PER_GPU = 4, 64


def pod_template(service: LLMService, role: RoleSpec, *, owner: Owner, options: Options) -> Obj:
    """The template of every group of a role, with marks where groups differ."""
    engine = service.spec.engine
    mount = cache.mount(service)
    secured = security.certificate(service, "worker")
    ports = {"grpc": names.PORT_WORKER, "join": names.PORT_JOIN, "admin": names.PORT_ADMIN}
    container = pods.container(
        names.ENGINE_CONTAINER,
        image=engine.image or options.images.workers[engine.backend],
        engine=engine,
        command=COMMAND,
        env=_environment(service, role, owner, options, secured),
        resources=_resources(engine.backend, role),
        ports=ports | ({"ssh": names.PORT_SSH} if is_launched(service, role) else {}),
        capabilities=("IPC_LOCK",) if _rdma(engine.backend, role) else (),
        mounts=[
            {"name": "identity", "mountPath": IDENTITY_FOLDER, "readOnly": True},
            *([{"name": "shm", "mountPath": "/dev/shm"}] if role.shm_size else []),  # noqa: S108  # a mount
            *([mount.as_mount(read_only=not cache.is_filled_by_engines(service))] if mount else []),
            *secured.mounts,
        ],
    ) | pods.probes(startup_timeout_s=role.startup_timeout_s)
    spec = pods.pod_spec(
        account=accounts.account_name(owner),
        engine=engine,
        container=container,
        grace_s=0,
        volumes=[
            {"name": "identity", "secret": {"secretName": IDENTITY, "defaultMode": IDENTITY_MODE}},
            *(
                [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": role.shm_size}}]
                if role.shm_size
                else []
            ),
            *([mount.as_volume()] if mount else []),
            *secured.volumes,
        ],
    )
    spec |= _scheduling(service, role, owner)
    del spec["terminationGracePeriodSeconds"]  # follows spec.drain.timeout, see `group`
    labels = names.component_labels(owner.name, names.COMPONENT_ENGINE) | {
        names.LABEL_ROLE: names.role_label(role.name),
        names.LABEL_GROUP: GROUP_INDEX,
    }
    template = pods.template(labels, spec)
    is_told = gang.fields(service.spec.placement.gang) is not None
    return gang.marked(service.spec.placement.gang, role, template) if is_told else template


def _environment(
    service: LLMService, role: RoleSpec, owner: Owner, options: Options, secured: security.Secured
) -> list[Obj]:
    leader = options.host(GROUP_NAME, owner.namespace)
    scheduler = options.host(names.scheduler_name(owner.name), owner.namespace)
    engine = processes.engine(
        service, role, model_sequence_tokens=processes.known_sequence_tokens(service), weights_path=None
    )
    values = {
        "worker_id": WORKER_ID,
        "phase": names.role_label(role.name),
        "port": names.PORT_WORKER,
        "scheduler_addresses": [f"{scheduler}:{names.PORT_SCHEDULER}"],
        "group_size": role.nodes,
        "incarnation": INCARNATION,
        "leader_address": f"{GROUP_NAME}-0.{leader}:{names.PORT_JOIN}",
        "join_port": names.PORT_JOIN,
        "startup_timeout_s": role.startup_timeout_s,
        **_launch(service, role, options, owner),
        "boot_dir": pods.TMP,  # outlives the container, not the pod
        **engine,
        **secured.settings,
        "drain_timeout_s": DRAIN_TIMEOUT_S,
        "log_level": options.log_level,
    }
    ours = [
        *pods.admin_environment(PREFIX),
        environment.listen(f"{PREFIX}HOST", options.listen),
        environment.listen(f"{PREFIX}ADMIN_HOST", options.listen),
        environment.from_field(f"{PREFIX}ADVERTISE_HOST", "status.podIP"),
        environment.from_field(f"{PREFIX}POD_NAME", "metadata.name"),
        environment.from_field(f"{PREFIX}POD_UID", "metadata.uid"),
        environment.from_field(f"{PREFIX}NODE_NAME", "spec.nodeName"),
        environment.from_label(f"{PREFIX}EPOCH", names.LABEL_EPOCH),
        *environment.variables(PREFIX, values, nested=["tls"]),
        *cache.token(service),
        *(_METRICS if service.spec.engine.backend == "TensorRTLLM" else []),
    ]
    theirs = environment.of_engine(service.spec.engine)
    return environment.merged(ours, theirs)


def is_launched(service: LLMService, role: RoleSpec) -> bool:
    """Ordinal 0 starts ranks in the other pods of a group."""
    return service.spec.engine.backend == "TensorRTLLM" and role.nodes > 1


def _launch(service: LLMService, role: RoleSpec, options: Options, owner: Owner) -> dict[str, object]:
    if not is_launched(service, role):
        return {}
    return {
        "ssh_host": f"$({PREFIX}POD_NAME).{options.host(GROUP_NAME, owner.namespace)}",
        "ssh_port": names.PORT_SSH,
        "identity_file": f"{IDENTITY_FOLDER}/{IDENTITY_KEY}",
    }


_METRICS = [{"name": "TLLM_METRICS_ALL_RANKS", "value": "1"}]
"""Without it only rank 0 is seen under attention DP."""


def _rdma(backend: Backend, role: RoleSpec) -> dict[str, str]:
    if backend != "TensorRTLLM":
        return {}
    return {name: str(number) for name, number in role.rdma_resources.items()}


def _resources(backend: Backend, role: RoleSpec) -> Obj:
    match backend:
        case "Simulated":
            return pods.resources(role.resources, cpu=f"{SIMULATED_MILLICPUS}m", memory=f"{SIMULATED_MIB}Mi")
        case "TorchMoE":  # one pod has every rank
            ranks = role.parallelism.attention_dp
            return pods.resources(
                role.resources,
                cpu=f"{TORCH_RANK_MILLICPUS * ranks}m",
                memory=f"{TORCH_BASE_MIB + TORCH_RANK_MIB * ranks}Mi",
            )
        case "TensorRTLLM":
            gpus = role.gpus_per_node
            return pods.resources(
                role.resources,
                cpu=str(TENSORRT_CPUS_PER_GPU * gpus),
                memory=f"{TENSORRT_GIB_PER_GPU * gpus}Gi",
                extra={role.gpu_resource_name: str(gpus), **_rdma(backend, role)},
            )


def _scheduling(service: LLMService, role: RoleSpec, owner: Owner) -> Obj:
    out: Obj = {"affinity": _affinity(service, role, owner)} if role.nodes > 1 else {}
    if role.node_selector:
        out["nodeSelector"] = dict(role.node_selector)
    if role.tolerations:
        out["tolerations"] = [_toleration(toleration) for toleration in role.tolerations]
    if role.priority_class_name:
        out["priorityClassName"] = role.priority_class_name
    if role.runtime_class_name:
        out["runtimeClassName"] = role.runtime_class_name
    return out


def _affinity(service: LLMService, role: RoleSpec, owner: Owner) -> Obj:
    """Members keep to one topology domain, and apart from each other.

    Apart is a must only where a member is a node's worth of GPUs: engines on CPUs may share a small cluster.
    """
    mine: Obj = {
        "labelSelector": {
            "matchLabels": names.group_selector(owner.name, role.name, 0) | {names.LABEL_GROUP: GROUP_INDEX}
        }
    }
    must_part = service.spec.engine.backend == "TensorRTLLM"
    out: Obj = {"podAntiAffinity": _terms([mine | {"topologyKey": "kubernetes.io/hostname"}], must=must_part)}
    placement = service.spec.placement
    if placement.topology_key:
        together = mine | {"topologyKey": placement.topology_key}
        out["podAffinity"] = _terms([together], must=placement.mode == "Required")
    return out


def _terms(terms: Sequence[Obj], *, must: bool) -> Obj:
    if must:
        return {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}
    return {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "podAffinityTerm": term} for term in terms
        ]
    }


def _toleration(toleration: Toleration) -> Obj:
    return toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
