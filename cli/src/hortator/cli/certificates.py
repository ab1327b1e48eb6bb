"""`hortator certificates`: an authority and certificates for the components of one service, as files."""

from __future__ import annotations

import base64
import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from hortator.cli.console import stderr
from hortator.cli.errors import CommandError
from hortator.runtime.certificate_authority import CertificateAuthority, Issued
from hortator.runtime.certificates import CertificateError
from hortator.runtime.identity import Identity, IdentityError

COMPONENTS = ("gateway", "scheduler", "worker", "operator", "client", "administrator")
"""`operator` may look after this service if it trusts this authority; `administrator` is for people."""
SERVER_WITH_HOSTS = "gateway"


def run(
    *,
    namespace: str,
    service: str,
    out: Path,
    hosts: tuple[str, ...],
    components: tuple[str, ...],
    days: int,
) -> int:
    """Write the files; the exit code.

    Raises:
        CommandError: a name that no certificate can carry, or a folder that cannot be used.
    """
    unknown = [name for name in components if name not in COMPONENTS]
    if unknown:
        raise CommandError(f"--component: got {unknown[0]!r} (allowed: {', '.join(COMPONENTS)})")
    now = dt.datetime.now(dt.UTC)
    secrets: list[Mapping[str, object]] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        authority = _authority(out, f"hortator {namespace}/{service}", now=now)
        for component in components or COMPONENTS:
            identity = Identity(namespace=namespace, service=service, component=component)
            names = hosts if component == SERVER_WITH_HOSTS else ()
            issued = authority.issue(identity, now=now, days=days, hosts=names)
            files = issued.files(authority.issued.cert_pem)
            folder = out / component
            folder.mkdir(exist_ok=True)
            for name, content in files.items():
                _write(folder / name, content)
            secrets.append(_secret(identity, files))
        _write(out / "secrets.yaml", yaml.safe_dump_all(secrets, sort_keys=False).encode())
    except OSError as error:
        raise CommandError(f"--out {out}: {error.strerror}") from None
    except (IdentityError, CertificateError) as error:
        raise CommandError(str(error)) from None
    until = (now + dt.timedelta(days=days)).date().isoformat()
    stderr().print(f"{out}: {', '.join(components or COMPONENTS)}, good until {until}")
    return 0


def _authority(out: Path, name: str, *, now: dt.datetime) -> CertificateAuthority:
    """The one in the folder, or a new one."""
    cert, key = out / "ca.crt", out / "ca.key"
    if cert.exists() and key.exists():
        return CertificateAuthority.load(Issued(cert_pem=cert.read_bytes(), key_pem=key.read_bytes()))
    authority = CertificateAuthority.create(name, now=now)
    _write(cert, authority.issued.cert_pem)
    _write(key, authority.issued.key_pem)
    return authority


def _secret(identity: Identity, files: Mapping[str, bytes]) -> Mapping[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {
            "name": f"{identity.service}-{identity.component}-tls",
            "namespace": identity.namespace,
        },
        "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
    }


def _write(path: Path, content: bytes) -> None:
    """Replace a file by one that only its owner may read."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
    temporary.replace(path)
