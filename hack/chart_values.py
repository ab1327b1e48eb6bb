"""Values of the Helm chart charts/hortator, each with its type, default and meaning.

The one description: hack/generate-charts writes values.yaml, values.schema.json and the README from it.
A value is here only when a template reads it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
KUBERNETES = "x-kubernetes-type"
"""Placeholder in a schema: hack/generate-charts puts Kubernetes' own schema of that type in its place."""

Labels = dict[str, str]
DNSLabel = Annotated[str, Field(pattern=DNS_LABEL)]
Resources = Annotated[dict[str, Any], WithJsonSchema({KUBERNETES: "core.v1.ResourceRequirements"})]
Affinity = Annotated[dict[str, Any], WithJsonSchema({KUBERNETES: "core.v1.Affinity"})]
Peer = Annotated[dict[str, Any], WithJsonSchema({KUBERNETES: "networking.v1.NetworkPolicyPeer"})]
Toleration = Annotated[dict[str, Any], WithJsonSchema({KUBERNETES: "core.v1.Toleration"})]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class Model(BaseModel):
    """Unknown names are refused; names are spelled in camel case."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, use_attribute_docstrings=True)


class CRDs(Model):
    """The CustomResourceDefinitions of LLMService and LLMServiceScaler."""

    enabled: bool = True
    """Install them. A cluster has them once: further releases, and one beside hortator-crds, set false."""


class Image(Model):
    """The operator's image."""

    registry: str = Field(default="", pattern=r"^([^/].*[^/])?$")
    """HOST/PATH where the images come from, those of services too; empty: the nodes know them by name."""
    name: str = Field(default="hortator-operator", min_length=1)
    """Name under the registry."""
    tag: str = Field(default="", pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$")
    """Empty: the chart's appVersion."""
    digest: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$")
    """`sha256:...`; stands in for the tag."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull it."""


class PullSecret(Model):
    """A Secret in the release's namespace."""

    name: DNSLabel
    """Its name."""


class ServiceImages(Model):
    """Images of the pods that the operator makes: schedulers, gateways, workers."""

    registry: str = Field(default="", pattern=r"^([^/].*[^/])?$")
    """HOST/PATH where they come from; empty: `image.registry`."""
    tag: str = Field(default="", pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$")
    """Empty: the operator's version."""


class ServiceAccount(Model):
    """What the operator is to the API server."""

    create: bool = True
    """Make it; false: `name` is there already."""
    name: DNSLabel = "hortator-operator"
    """Its name in the release's namespace."""
    annotations: Labels = {}
    """For example of a cloud's workload identity."""


class Monitor(Model):
    """How Prometheus finds what it scrapes."""

    enabled: bool = False
    """Make it; needs the CRDs of the Prometheus operator."""
    interval: str = Field(default="30s", pattern=r"^[1-9][0-9]*(ms|s|m)$")
    """Between two scrapes."""
    labels: Labels = {}
    """Labels that your Prometheus selects by."""


class ServiceMonitor(Monitor):
    """A ServiceMonitor of the operator, and the Service that it needs."""


class PodMonitor(Monitor):
    """A PodMonitor of the services' pods: gateways, schedulers, workers."""


class PrometheusRule(Model):
    """Alerts."""

    enabled: bool = False
    """Make a PrometheusRule; needs the CRDs of the Prometheus operator."""
    labels: Labels = {}
    """Labels that your Prometheus selects by."""


class Dashboards(Model):
    """Grafana dashboards: service and latencies, balance of ranks, life of groups, operator."""

    enabled: bool = False
    """Make a ConfigMap of each."""
    labels: Labels = {"grafana_dashboard": "1"}
    """Labels that Grafana's sidecar selects by."""


class Monitoring(Model):
    """For Prometheus and Grafana; docs/reference/metrics.md lists the metrics."""

    service_monitor: ServiceMonitor = ServiceMonitor()
    pod_monitor: PodMonitor = PodMonitor()
    prometheus_rule: PrometheusRule = PrometheusRule()
    dashboards: Dashboards = Dashboards()


class Gang(Model):
    """Gangs (docs/how-to/gang.md)."""

    providers: Annotated[
        list[Literal["Volcano", "Coscheduling", "Kueue"]], Field(json_schema_extra={"uniqueItems": True})
    ] = []
    """Other schedulers that LLMServices may name in spec.placement.gang.provider. The operator looks for them
    and gets a rule for the objects of each."""


class Certificates(Model):
    """Certificates that the operator makes (docs/how-to/secure.md)."""

    namespaces: Annotated[list[DNSLabel], Field(json_schema_extra={"uniqueItems": True})] = []
    """Namespaces of LLMServices with spec.security.tls.issuer Operator. There, and nowhere else, the operator
    may read and replace Secrets. Empty: it makes no certificates."""


class NetworkPolicy(Model):
    """What may reach the operator, and what it may reach. Of services it is spec.security.networkPolicy."""

    enabled: bool = False
    """Make it. In: the admin port only. Out: DNS, the API server's ports and the schedulers of services."""
    scrapers: list[Peer] = []
    """Who may reach the admin port (metrics), as peers of a NetworkPolicy; empty: everybody."""
    api_server_ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field(default=[443, 6443], min_length=1)
    """Ports on which the API server is reached, behind its Service; its address is not known."""


class Values(Model):
    """Everything that charts/hortator can be told."""

    crds: CRDs = CRDs()
    namespaces: Annotated[list[DNSLabel], Field(json_schema_extra={"uniqueItems": True})] = []
    """Namespaces whose LLMServices are served; each gets a Role, nothing of the whole cluster is asked for.
    Empty: all of the cluster, with ClusterRoles."""
    observe_nodes: bool = True
    """Let the operator read Nodes: it checks for room before a group starts, and replaces pods of lost nodes.
    Without effect where `namespaces` is set."""
    gang: Gang = Gang()
    certificates: Certificates = Certificates()
    aggregate_roles: bool = True
    """Let those who may view or edit a namespace do so with its LLMServices.
    Without effect where `namespaces` is set."""
    image: Image = Image()
    image_pull_secrets: list[PullSecret] = []
    """Secrets that the operator's image is pulled with; those of services are in each LLMService."""
    service_images: ServiceImages = ServiceImages()
    service_account: ServiceAccount = ServiceAccount()
    replicas: int = Field(default=1, ge=1, le=5)
    """Operators; one leads, others wait for its Lease."""
    log_level: LogLevel = "INFO"
    """Of the operator."""
    service_log_level: LogLevel = "INFO"
    """Of every process in the services' pods."""
    tls_secret: str = Field(default="", pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")
    """Secret with the operator's certificate, for services with `security.tls` (docs/how-to/secure.md).
    Empty: none."""
    cluster_domain: str = Field(default="", pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")
    """Appended to host names of Services; empty: `NAME.NAMESPACE.svc`."""
    resources: Resources = {
        "requests": {"cpu": "100m", "memory": "512Mi"},
        "limits": {"memory": "512Mi"},
    }
    """Of the operator's container."""
    node_selector: Labels = {}
    """Labels of nodes that the operator may run on."""
    tolerations: list[Toleration] = []
    """Taints that the operator tolerates."""
    affinity: Affinity = {}
    """Where the operator runs."""
    priority_class_name: str = ""
    """Of the operator's pod, for example `system-cluster-critical`."""
    monitoring: Monitoring = Monitoring()
    network_policy: NetworkPolicy = NetworkPolicy()
    pod_annotations: Labels = {}
    """Annotations of the operator's pod."""
    pod_labels: Labels = {}
    """Further labels of the operator's pod."""
