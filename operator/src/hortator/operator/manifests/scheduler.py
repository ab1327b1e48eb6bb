"""The schedulers, one of which leads, and the headless Service that workers and gateways dial.

Each begins as a standby; workers and gateways say when they are without a leader (decision 0023), so how many
there are at a time does not matter. An update adds a new one before an old one goes, which hands over if it
led: also where one is asked for, nothing waits for a pod to start.
"""

from __future__ import annotations

from hortator.api import processes
from hortator.api.v1alpha1 import LLMService
from hortator.operator import names
from hortator.operator.manifests import accounts, environment, pods, security
from hortator.operator.manifests.metadata import Owner, child
from hortator.operator.objects import Obj
from hortator.operator.options import Options

PREFIX = "HORTATOR_SCHEDULER_"
COMMAND = ("python", "-m", "hortator.scheduler")
DRAIN_TIMEOUT_S = 5.0
"""To hand over; what waits is announced again to the one that leads next."""
STARTUP_TIMEOUT_S = 120.0
MIN_READY_S = 5
"""Workers and gateways find a new scheduler and tell it what they see: before that, it does not lead."""


def deployment(service: LLMService, *, owner: Owner, options: Options) -> Obj:
    """The scheduler's Deployment."""
    spec, engine = service.spec.scheduler, service.spec.engine
    name = names.scheduler_name(owner.name)
    labels = names.component_labels(owner.name, names.COMPONENT_SCHEDULER)
    secured = security.certificate(service, "scheduler")
    values = {
        "port": names.PORT_SCHEDULER,
        "standby": True,
        "drain_timeout_s": DRAIN_TIMEOUT_S,
        "log_level": options.log_level,
        "core": processes.scheduler_core(service),
        **secured.settings,
    }
    container = pods.container(
        names.COMPONENT_SCHEDULER,
        image=spec.image or options.images.serving,
        engine=engine,
        command=COMMAND,
        env=[
            *pods.admin_environment(PREFIX),
            environment.listen(f"{PREFIX}HOST", options.listen),
            environment.listen(f"{PREFIX}ADMIN_HOST", options.listen),
            *environment.variables(PREFIX, values, nested=["core", "tls"]),
        ],
        resources=pods.resources(spec.resources, cpu="250m", memory="1Gi"),
        ports={"grpc": names.PORT_SCHEDULER, "admin": names.PORT_ADMIN},
        mounts=secured.mounts,
    ) | pods.probes(startup_timeout_s=STARTUP_TIMEOUT_S)
    pod = pods.pod_spec(
        account=accounts.account_name(owner),
        engine=engine,
        container=container,
        grace_s=pods.grace_s(DRAIN_TIMEOUT_S),
        volumes=secured.volumes,
    )
    if options.node_selector:
        pod["nodeSelector"] = dict(options.node_selector)
    selector = names.component_selector(owner.name, names.COMPONENT_SCHEDULER)
    if spec.replicas > 1:
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector},
            }
        ]
    obj = child("apps/v1", "Deployment", name, owner=owner, labels=labels)
    obj["spec"] = {
        "replicas": spec.replicas,
        "minReadySeconds": MIN_READY_S,
        "revisionHistoryLimit": 1,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": selector},
        "template": pods.template(labels, pod),
    }
    return obj


def budgets(service: LLMService, *, owner: Owner) -> tuple[Obj, ...]:
    """Evictions take one scheduler at a time, where there are several.

    What is left of it when one is wanted again allows that one to be evicted, as if it were not there.
    """
    if service.spec.scheduler.replicas == 1:
        return ()
    labels = names.component_labels(owner.name, names.COMPONENT_SCHEDULER)
    obj = child(
        "policy/v1", "PodDisruptionBudget", names.scheduler_name(owner.name), owner=owner, labels=labels
    )
    obj["spec"] = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": names.component_selector(owner.name, names.COMPONENT_SCHEDULER)},
    }
    return (obj,)


def headless_service(*, owner: Owner) -> Obj:
    """Resolves to every scheduler that is ready, leader or not."""
    name = names.scheduler_name(owner.name)
    labels = names.component_labels(owner.name, names.COMPONENT_SCHEDULER)
    obj = child("v1", "Service", name, owner=owner, labels=labels)
    obj["spec"] = {
        "clusterIP": "None",
        "selector": names.component_selector(owner.name, names.COMPONENT_SCHEDULER),
        "ports": [
            pods.service_port("grpc", names.PORT_SCHEDULER),
            pods.service_port("admin", names.PORT_ADMIN),
        ],
    }
    return obj
