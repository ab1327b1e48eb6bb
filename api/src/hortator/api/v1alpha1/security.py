"""Who may talk to whom."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.model import SecretKey
from hortator.api.v1alpha1.text import ChildName, Text

MAX_NAMESPACES = 64
MAX_PORTS = 16
MAX_HOSTS = 16

ClientAuth = Literal["None", "Certificate"]
NamespaceName = Annotated[
    str,
    Text(
        pattern="[a-z0-9]([-a-z0-9]*[a-z0-9])?",
        max_length=63,
        allowed="a name of a namespace: at most 63 of a-z, 0-9 and '-'",
    ),
]
Namespaces = Annotated[tuple[NamespaceName, ...], Field(strict=False, max_length=MAX_NAMESPACES)]


TlsIssuer = Literal["Secrets", "Operator"]
HostName = Annotated[
    str,
    Text(
        pattern="[A-Za-z0-9*]([-A-Za-z0-9.:]*[A-Za-z0-9])?",
        max_length=253,
        allowed="a DNS name or an IP address",
    ),
]


class TlsSpec(Model):
    """Certificates of the processes, from Secrets of type kubernetes.io/tls with `ca.crt` in them."""

    secret_prefix: ChildName | None = None
    """Secrets are `<secretPrefix>-gateway-tls`, -scheduler-tls, -worker-tls. Absent: the service name."""
    issuer: TlsIssuer = "Secrets"
    """Secrets: whoever makes these; Operator: the operator makes them, with an authority for this service."""
    hosts: Annotated[tuple[HostName, ...], Field(strict=False, max_length=MAX_HOSTS)] = ()
    """Further names and addresses that clients dial the gateways by; only with issuer Operator."""


class ApiKeysRef(Model):
    """The Secret that holds the API keys of clients."""

    name: ChildName
    """Of the Secret."""
    key: SecretKey = "keys.yaml"
    """Of the entry in it, as `hortator api-key` writes it."""


class NetworkPolicySpec(Model):
    """NetworkPolicies of all pods of the service: whoever is not named reaches none of their ports."""

    client_namespaces: Namespaces = ()
    """Whose pods may reach the gateways; empty: everybody, also from outside of the cluster."""
    scraper_namespaces: Namespaces = ()
    """Whose pods may reach the admin ports (metrics); empty: everybody."""
    download_ports: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65535)], ...], Field(strict=False, max_length=MAX_PORTS)
    ] = (443,)
    """TCP ports on which pods that download weights may reach everybody; a proxy may have others."""


class SecuritySpec(Model):
    """What processes and clients show before they are answered; nothing of it is on by itself."""

    tls: TlsSpec | None = None
    """TLS on every port but the admin port; processes show each other certificates. Absent: plaintext."""
    client_auth: ClientAuth = "None"
    """Certificate: clients show one of the same authority, as component `client`."""
    api_keys_secret_ref: ApiKeysRef | None = Field(default=None)
    """Who may generate, and for which tenants. Absent: anybody who reaches a gateway."""
    network_policy: NetworkPolicySpec | None = None
    """Fences the pods in, where the cluster's network enforces NetworkPolicies. Absent: there are none."""
