"""Certificates and API keys in pods: Secrets that others make, mounted as files and named in settings.

The files change under a running process when the Secret does; processes notice by themselves (see
`hortator.runtime.certificates`), so that a renewal restarts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hortator.api.v1alpha1 import LLMService
from hortator.operator import names
from hortator.operator.objects import Obj

TLS_VOLUME = "tls"
TLS_FOLDER = "/etc/hortator/tls"
API_KEYS_FOLDER = "/etc/hortator/api-keys"
API_KEYS_FILE = "keys.yaml"
SECRET_MODE = 0o440


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """What a pod has for its security; all empty where there is none."""

    settings: Mapping[str, object] = field(default_factory=dict)
    """Of the process; `tls` is nested."""
    volumes: tuple[Obj, ...] = ()
    mounts: tuple[Obj, ...] = ()

    def __or__(self, other: Secured) -> Secured:
        return Secured(
            settings={**self.settings, **other.settings},
            volumes=self.volumes + other.volumes,
            mounts=self.mounts + other.mounts,
        )


def certificate(service: LLMService, component: str) -> Secured:
    """The certificate of a component, if the service has any."""
    tls = service.spec.security.tls
    if tls is None:
        return Secured()
    secret = names.tls_secret(tls.secret_prefix or service.metadata.name, component)
    files = {"cert_file": "tls.crt", "key_file": "tls.key", "ca_file": "ca.crt"}
    return Secured(
        settings={"tls": {setting: f"{TLS_FOLDER}/{file}" for setting, file in files.items()}},
        volumes=(_volume(TLS_VOLUME, secret),),
        mounts=(_mount(TLS_VOLUME, TLS_FOLDER),),
    )


def of_clients(service: LLMService) -> Secured:
    """What the gateways ask clients for."""
    security = service.spec.security
    settings: dict[str, object] = {}
    if security.client_auth == "Certificate":
        settings["client_auth"] = "certificate"
    keys = security.api_keys_secret_ref
    if keys is None:
        return Secured(settings=settings)
    settings["api_keys_file"] = f"{API_KEYS_FOLDER}/{API_KEYS_FILE}"
    return Secured(
        settings=settings,
        volumes=(_volume("api-keys", keys.name, items=[{"key": keys.key, "path": API_KEYS_FILE}]),),
        mounts=(_mount("api-keys", API_KEYS_FOLDER),),
    )


def _volume(name: str, secret: str, **more: object) -> Obj:
    return {"name": name, "secret": {"secretName": secret, "defaultMode": SECRET_MODE, **more}}


def _mount(name: str, folder: str) -> Obj:
    return {"name": name, "mountPath": folder, "readOnly": True}
