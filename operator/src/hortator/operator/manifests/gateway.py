"""The gateways: stateless processes that clients talk to, and their Service.

An update adds a new gateway before an old one goes, which then has the drain timeout to finish its streams.
Between the word to go and the drain it still takes requests: the Service forgets it a little later.
"""

from __future__ import annotations

from hortator.api import processes
from hortator.api.v1alpha1 import LLMService
from hortator.operator import names
from hortator.operator.manifests import accounts, environment, pods, security
from hortator.operator.manifests.metadata import Owner, child
from hortator.operator.objects import Obj
from hortator.operator.options import Options

PREFIX = "HORTATOR_GATEWAY_"
COMMAND = ("python", "-m", "hortator.gateway")
STARTUP_TIMEOUT_S = 120.0
MIN_DRAIN_TIMEOUT_S = 1.0
"""Of a gateway's settings, which take no zero."""
DRAIN_DELAY_S = 5.0
"""New requests are taken for so long after a gateway was told to go: clients may not know it yet."""


def deployment(service: LLMService, *, owner: Owner, options: Options) -> Obj:
    """The gateways' Deployment."""
    spec, engine = service.spec.gateway, service.spec.engine
    name = names.gateway_name(owner.name)
    labels = names.component_labels(owner.name, names.COMPONENT_GATEWAY)
    scheduler = options.host(names.scheduler_name(owner.name), owner.namespace)
    secured = security.certificate(service, "gateway") | security.of_clients(service)
    drain_timeout_s = max(MIN_DRAIN_TIMEOUT_S, service.spec.drain.timeout_s)
    values = {
        "port": names.PORT_GATEWAY,
        "scheduler_addresses": [f"{scheduler}:{names.PORT_SCHEDULER}"],
        "drain_delay_s": DRAIN_DELAY_S,
        "drain_timeout_s": drain_timeout_s,
        "log_level": options.log_level,
        **processes.gateway(
            service,
            model_sequence_tokens=processes.known_sequence_tokens(service),
            tokenizer=_tokenizer(service, options),
        ),
        **secured.settings,
    }
    container = pods.container(
        names.COMPONENT_GATEWAY,
        image=spec.image or options.images.serving,
        engine=engine,
        command=COMMAND,
        env=[
            *pods.admin_environment(PREFIX),
            environment.listen(f"{PREFIX}HOST", options.listen),
            environment.listen(f"{PREFIX}ADMIN_HOST", options.listen),
            environment.from_field(f"{PREFIX}GATEWAY_ID", "metadata.name"),
            *environment.variables(PREFIX, values, nested=["tls"]),
        ],
        resources=pods.resources(spec.resources, cpu="250m", memory="1Gi"),
        ports={"grpc": names.PORT_GATEWAY, "admin": names.PORT_ADMIN},
        mounts=secured.mounts,
    ) | pods.probes(startup_timeout_s=STARTUP_TIMEOUT_S)
    pod = pods.pod_spec(
        account=accounts.account_name(owner),
        engine=engine,
        container=container,
        grace_s=pods.grace_s(DRAIN_DELAY_S + drain_timeout_s),
        volumes=secured.volumes,
    )
    if options.node_selector:
        pod["nodeSelector"] = dict(options.node_selector)
    selector = names.component_selector(owner.name, names.COMPONENT_GATEWAY)
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
        "revisionHistoryLimit": 1,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": selector},
        "template": pods.template(labels, pod),
    }
    return obj


def client_service(service: LLMService, *, owner: Owner) -> Obj:
    """What clients dial."""
    protocol = "https" if service.spec.security.tls else "kubernetes.io/h2c"
    name = names.gateway_name(owner.name)
    labels = names.component_labels(owner.name, names.COMPONENT_GATEWAY)
    obj = child("v1", "Service", name, owner=owner, labels=labels)
    obj["spec"] = {
        "type": "ClusterIP",
        "selector": names.component_selector(owner.name, names.COMPONENT_GATEWAY),
        "ports": [pods.service_port("grpc", names.PORT_GATEWAY, app_protocol=protocol)],
    }
    return obj


def _tokenizer(service: LLMService, options: Options) -> str:
    """A file in the gateway's image, the tokenizer of made-up tokens, or the one that workers have."""
    match service.spec.engine.backend:
        case "Simulated":
            return processes.BYTES_TOKENIZER
        case "TorchMoE":
            is_builtin = service.spec.model.uri == processes.BUILTIN_MODEL
            return options.builtin_tokenizer if is_builtin else processes.WORKERS_TOKENIZER
        case "TensorRTLLM":
            return processes.WORKERS_TOKENIZER
