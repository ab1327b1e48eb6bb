"""Who may talk to whom."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.model import SecretKey
from hortator.api.v1alpha1.text import ChildName

ClientAuth = Literal["None", "Certificate"]


class TlsSpec(Model):
    """Certificates of the processes, from Secrets of type kubernetes.io/tls with `ca.crt` in them."""

    secret_prefix: ChildName | None = None
    """Secrets are `<secretPrefix>-gateway-tls`, -scheduler-tls, -worker-tls. Absent: the service name."""


class ApiKeysRef(Model):
    """The Secret that holds the API keys of clients."""

    name: ChildName
    """Of the Secret."""
    key: SecretKey = "keys.yaml"
    """Of the entry in it, as `hortator api-key` writes it."""


class SecuritySpec(Model):
    """What processes and clients show before they are answered; nothing of it is on by itself."""

    tls: TlsSpec | None = None
    """TLS on every port but the admin port; processes show each other certificates. Absent: plaintext."""
    client_auth: ClientAuth = "None"
    """Certificate: clients show one of the same authority, as component `client`."""
    api_keys_secret_ref: ApiKeysRef | None = Field(default=None)
    """Who may generate, and for which tenants. Absent: anybody who reaches a gateway."""
