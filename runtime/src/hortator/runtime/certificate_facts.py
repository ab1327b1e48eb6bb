"""What certificates say, without their keys: for those who look after them and do not use them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cryptography import x509

from hortator.runtime.certificates import CertificateError
from hortator.runtime.identity import SCHEME


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one certificate says."""

    subject: str
    issuer: str
    begins_at: dt.datetime
    ends_at: dt.datetime
    uris: tuple[str, ...]
    """Identities of components first."""
    hosts: frozenset[str]
    """Its DNS names and IP addresses."""


def read_certificates(pem: bytes) -> tuple[Said, ...]:
    """Of each certificate in a PEM file, in order.

    Raises:
        CertificateError: there is none, or one cannot be read.
    """
    try:
        return tuple(map(_said, x509.load_pem_x509_certificates(pem)))
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise CertificateError("no certificate in PEM, or one that cannot be read") from None


def _said(certificate: x509.Certificate) -> Said:
    uris: list[str] = []
    hosts: set[str] = set()
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        pass
    else:
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        hosts = {*names.get_values_for_type(x509.DNSName)}
        hosts |= {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return Said(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        begins_at=certificate.not_valid_before_utc,
        ends_at=certificate.not_valid_after_utc,
        uris=tuple(sorted(uris, key=lambda uri: not uri.startswith(SCHEME))),
        hosts=frozenset(hosts),
    )
