"""A small authority: signs certificates for the components of a service.

For those who have no authority of their own (cert-manager, a company's): `hortator certificates` writes files
with it, `hortator up --tls` one set per start, the operator keeps Secrets. Keys are on the curve P-256; a
private key never leaves this module but as PEM.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hortator.runtime.certificates import CertificateError
from hortator.runtime.identity import Identity

AUTHORITY_DAYS = 3650
MAX_COMMON_NAME = 64
_MARK_BYTES = 4
_BLOCK = re.compile(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----\n?", re.DOTALL)
"""One certificate or key of a PEM file."""
CLOCK_SKEW = dt.timedelta(minutes=5)
"""Certificates begin this much earlier, for peers whose clocks are behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its private key, PEM."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)

    def files(self, ca_pem: bytes) -> dict[str, bytes]:
        """By the names of a Secret of type kubernetes.io/tls; `ca_pem` is who its holder trusts."""
        return {"tls.crt": self.cert_pem, "tls.key": self.key_pem, "ca.crt": ca_pem}


class CertificateAuthority:
    """An authority in memory. `create` a new one or `load` what `pem` gave."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, name: str, *, now: dt.datetime, days: int = AUTHORITY_DAYS) -> Self:
        """A new authority with a key of its own.

        `name` gets an ending of its own: of two that are trusted at once, and have one name, a peer could
        try the wrong one.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        ending = f" {secrets.token_hex(_MARK_BYTES)}"
        name = name[: MAX_COMMON_NAME - len(ending)] + ending
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, key.public_key(), now=now, days=days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        return cls(builder.sign(key, SHA256()), key)

    @classmethod
    def load(cls, issued: Issued) -> Self:
        """The authority that was created before.

        Raises:
            CertificateError: it is not an authority of ours.
        """
        try:
            certificate = x509.load_pem_x509_certificate(issued.cert_pem)
            key = load_pem_private_key(issued.key_pem, password=None)
            public_key = certificate.public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise CertificateError("the authority's certificate or key is not PEM") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != public_key:
            raise CertificateError("the authority's key is not the key of its certificate")
        return cls(certificate, key)

    @classmethod
    def load_all(cls, certs_pem: bytes, keys_pem: bytes) -> tuple[Self, ...]:
        """Several, of files with their certificates and, in the same order, their keys.

        Raises:
            CertificateError: one of them is not an authority of ours.
        """
        certs, keys = (_BLOCK.findall(pem) for pem in (certs_pem, keys_pem))
        if len(certs) != len(keys):
            raise CertificateError(f"{len(certs)} authorities with {len(keys)} keys")
        pairs = zip(certs, keys, strict=True)
        return tuple(cls.load(Issued(cert_pem=cert, key_pem=key)) for cert, key in pairs)

    @property
    def issued(self) -> Issued:
        """Its own certificate and key, to be kept."""
        return Issued(cert_pem=self._certificate.public_bytes(Encoding.PEM), key_pem=_pem(self._key))

    def issue(self, identity: Identity, *, now: dt.datetime, days: int, hosts: Sequence[str] = ()) -> Issued:
        """A certificate for a component, as server and as client.

        Args:
            identity: whose.
            now: when it begins.
            days: how long it is good.
            hosts: more DNS names and IP addresses by which others know its server.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.component)])
        builder = _builder(subject, self._certificate.subject, key.public_key(), now=now, days=days)
        names = [
            x509.UniformResourceIdentifier(identity.uri),
            x509.DNSName(identity.server_name),
            *map(_host, hosts),
        ]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        for extension, is_critical in (
            (x509.SubjectAlternativeName(names), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(signs_certificates=False), True),
            (x509.ExtendedKeyUsage(usages), False),
        ):
            builder = builder.add_extension(extension, critical=is_critical)
        certificate = builder.sign(self._key, SHA256())
        return Issued(cert_pem=certificate.public_bytes(Encoding.PEM), key_pem=_pem(key))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    now: dt.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
