"""Certificates for tests, made anew in a folder."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from hortator.runtime.certificate_authority import CertificateAuthority
from hortator.runtime.certificates import TlsSettings
from hortator.runtime.identity import Identity


def write_certificate(
    folder: Path,
    component: str,
    *,
    authority: CertificateAuthority,
    service: str = "svc",
    days: int = 1,
    hosts: tuple[str, ...] = (),
) -> TlsSettings:
    """Issue a certificate for a component of `ns/svc` and write it; what is there is replaced."""
    identity = Identity(namespace="ns", service=service, component=component)
    issued = authority.issue(identity, now=dt.datetime.now(dt.UTC), days=days, hosts=hosts)
    folder.mkdir(exist_ok=True)
    files = {"cert_file": "tls.crt", "key_file": "tls.key", "ca_file": "ca.crt"}
    pems = (issued.cert_pem, issued.key_pem, authority.issued.cert_pem)
    for name, pem in zip(files.values(), pems, strict=True):
        (folder / name).write_bytes(pem)
    return TlsSettings(**{field: str(folder / name) for field, name in files.items()})


def new_authority(name: str = "test") -> CertificateAuthority:
    """An authority that nobody else trusts."""
    return CertificateAuthority.create(name, now=dt.datetime.now(dt.UTC))
