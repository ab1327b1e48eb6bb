"""Who may reach the pods of a service, and whom they may reach: one NetworkPolicy per component.

    into        from                                                port
    gateway     clients                                             8080
    scheduler   gateways, engines, the operator                     7070
    engine      gateways                                            7071
                engines                                             7071, 7072; every port with TensorRTLLM
    all three   scrapers                                            9090

Out goes the same, the names of hosts (DNS), and what downloads weights. MPI, NCCL and UCX choose their ports
when they start, within a group and, for KV caches, between groups: no list of ports would be right for long.
Nobody is let in to the pod that fills the cache.

Probes need no rule: a node always reaches its own pods. RDMA passes by every NetworkPolicy.
docs/concepts/network.md is the table for people; a test evaluates the rendered policies against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hortator.api import processes
from hortator.api.v1alpha1 import LLMService
from hortator.operator import names
from hortator.operator.manifests import cache
from hortator.operator.manifests.metadata import Owner, child
from hortator.operator.objects import Obj
from hortator.operator.options import Options

PORT_DNS = 53
REMOTE = ("hf://", "oci://", "s3://")
"""Weights that engines load over the network, unless a Job has put them into the cache."""
NAMESPACE = "kubernetes.io/metadata.name"
"""The label with its own name that every namespace has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Pods of one component call those of another one, of the same service."""

    source: str
    target: str
    ports: tuple[int, ...]
    """Empty: every port of every protocol."""


def flows(service: LLMService) -> tuple[Flow, ...]:
    """Who calls whom within a service."""
    chooses_ports = service.spec.engine.backend == "TensorRTLLM"
    gateway, scheduler, engine = names.COMPONENT_GATEWAY, names.COMPONENT_SCHEDULER, names.COMPONENT_ENGINE
    return (
        Flow(source=gateway, target=scheduler, ports=(names.PORT_SCHEDULER,)),
        Flow(source=engine, target=scheduler, ports=(names.PORT_SCHEDULER,)),
        Flow(source=gateway, target=engine, ports=(names.PORT_WORKER,)),
        Flow(
            source=engine,
            target=engine,
            ports=() if chooses_ports else (names.PORT_WORKER, names.PORT_JOIN),
        ),
    )


def policies(service: LLMService, *, owner: Owner, options: Options) -> tuple[Obj, ...]:
    """One per component that has pods; none where `spec.security.networkPolicy` is absent."""
    if service.spec.security.network_policy is None:
        return ()
    components = [names.COMPONENT_GATEWAY, names.COMPONENT_SCHEDULER, names.COMPONENT_ENGINE]
    if cache.prefetch(service, owner=owner, options=options) is not None:
        components.append(names.COMPONENT_CACHE)
    return tuple(_policy(service, component, owner=owner, options=options) for component in components)


def _policy(service: LLMService, component: str, *, owner: Owner, options: Options) -> Obj:
    labels = names.component_labels(owner.name, component)
    name = names.policy_name(owner.name, component)
    obj = child("networking.k8s.io/v1", "NetworkPolicy", name, owner=owner, labels=labels)
    into = list(_ingress(service, component, owner=owner, options=options))
    obj["spec"] = {
        "podSelector": {"matchLabels": names.component_selector(owner.name, component)},
        "policyTypes": ["Ingress", "Egress"],
        **({"ingress": into} if into else {}),
        "egress": list(_egress(service, component, owner=owner)),
    }
    return obj


def _ingress(service: LLMService, component: str, *, owner: Owner, options: Options) -> Iterator[Obj]:
    policy = service.spec.security.network_policy
    if policy is None or component == names.COMPONENT_CACHE:
        return
    for flow in flows(service):
        if flow.target == component:
            yield _rule("from", [_pods(owner, flow.source)], flow.ports)
    match component:
        case names.COMPONENT_GATEWAY:
            yield _rule("from", _in_namespaces(policy.client_namespaces), [names.PORT_GATEWAY])
        case names.COMPONENT_SCHEDULER:
            yield _rule("from", [_operator(options)], [names.PORT_SCHEDULER])
    yield _rule("from", _in_namespaces(policy.scraper_namespaces), [names.PORT_ADMIN])


def _egress(service: LLMService, component: str, *, owner: Owner) -> Iterator[Obj]:
    policy = service.spec.security.network_policy
    yield {"ports": [_port(PORT_DNS, "UDP"), _port(PORT_DNS)]}
    for flow in flows(service):
        if flow.source == component:
            yield _rule("to", [_pods(owner, flow.target)], flow.ports)
    if policy is not None and policy.download_ports and _downloads(service, component):
        yield _rule("to", [], policy.download_ports)


def _downloads(service: LLMService, component: str) -> bool:
    """Whether weights come to these pods over the network."""
    if component == names.COMPONENT_CACHE:
        return True
    model = service.spec.model
    is_filled = processes.cached_model(service) is not None and not cache.is_filled_by_engines(service)
    is_remote = model.uri.startswith(REMOTE) and service.spec.engine.backend != "Simulated"
    return component == names.COMPONENT_ENGINE and is_remote and not is_filled


def _rule(side: str, peers: Sequence[Obj], ports: Iterable[int]) -> Obj:
    """No peers: everybody; no ports: all of them."""
    rule: Obj = {side: list(peers)} if peers else {}
    listed = [_port(port) for port in ports]
    return rule | ({"ports": listed} if listed else {})


def _port(port: int, protocol: str = "TCP") -> Obj:
    return {"port": port, "protocol": protocol}


def _pods(owner: Owner, component: str) -> Obj:
    return {"podSelector": {"matchLabels": names.component_selector(owner.name, component)}}


def _operator(options: Options) -> Obj:
    labels = {names.LABEL_APP: names.APP, names.LABEL_COMPONENT: names.COMPONENT_OPERATOR}
    return {
        "namespaceSelector": {"matchLabels": {NAMESPACE: options.operator_namespace}},
        "podSelector": {"matchLabels": labels},
    }


def _in_namespaces(namespaces: Sequence[str]) -> list[Obj]:
    if not namespaces:
        return []
    chosen = {"key": NAMESPACE, "operator": "In", "values": list(namespaces)}
    return [{"namespaceSelector": {"matchExpressions": [chosen]}}]
