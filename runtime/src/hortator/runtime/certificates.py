"""A process's certificate, its key and the authority that it trusts: files, read again when they change.

Files are replaced while we run (cert-manager renews, a mounted Secret is swapped). A certificate without the
key that goes with it is a swap half done, and that of another component is a mistake: neither is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hortator.runtime.followed_files import FollowedFiles
from hortator.runtime.identity import Identity, IdentityError


class CertificateError(Exception):
    """A file cannot be used; one line that names it and what is wanted."""


class TlsSettings(BaseModel):
    """Where certificate, key and authority are; all three, or none: everything in the clear."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert_file: str = Field(
        default="", description="Certificate of this process and what leads to the authority, PEM."
    )
    key_file: str = Field(default="", description="Its private key, PEM, without a password.")
    ca_file: str = Field(default="", description="Certificate of the authority that signs all peers, PEM.")

    @property
    def is_on(self) -> bool:
        """Whether there is a certificate at all."""
        return bool(self.cert_file)

    @model_validator(mode="after")
    def _whole(self) -> TlsSettings:
        missing = [name for name in ("cert_file", "key_file", "ca_file") if not getattr(self, name)]
        if missing and len(missing) != len(type(self).model_fields):
            raise ValueError(
                f"{' and '.join(missing)} missing (all of cert_file, key_file, ca_file, or none)"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSet:
    """What the three files held at one moment."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)
    ca_pem: bytes
    identity: Identity
    """Of the certificate."""
    expires_at: float
    """Seconds since 1970."""
    generation: int
    """Counts the sets that this process has used, from 1."""


class CertificateSource(Protocol):
    """Wherever the certificate of a process comes from."""

    def current(self) -> CertificateSet:
        """The newest whole set."""
        ...


class CertificateFiles:
    """The three files; `current` is what they hold (see `followed_files`)."""

    def __init__(self, settings: TlsSettings) -> None:
        """Read the files once.

        Raises:
            CertificateError: a file is missing or is not what it should be.
        """
        self._paths = tuple(Path(path) for path in (settings.cert_file, settings.key_file, settings.ca_file))
        self._files = FollowedFiles(self._paths, self._next, error=CertificateError, what="certificate")

    def current(self) -> CertificateSet:
        """The newest whole set."""
        return self._files.current()

    def _next(self, used: CertificateSet | None) -> CertificateSet:
        fresh = self._read(generation=1 if used is None else used.generation + 1)
        if used is not None and fresh.identity != used.identity:
            raise CertificateError(f"{self._paths[0]}: that of {fresh.identity} (wanted: {used.identity})")
        return fresh

    def _read(self, *, generation: int) -> CertificateSet:
        cert_pem, key_pem, ca_pem = (self._bytes(path) for path in self._paths)
        cert_file, key_file, ca_file = self._paths
        try:
            certificate = x509.load_pem_x509_certificates(cert_pem)[0]
        except ValueError:
            raise CertificateError(f"{cert_file}: no certificate in PEM") from None
        try:
            key = load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise CertificateError(f"{key_file}: no private key in PEM without a password") from None
        try:
            x509.load_pem_x509_certificates(ca_pem)
        except ValueError:
            raise CertificateError(f"{ca_file}: no certificate in PEM") from None
        spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        try:
            wanted = certificate.public_key().public_bytes(*spki)
        except (ValueError, UnsupportedAlgorithm):
            raise CertificateError(f"{cert_file}: its key is none that can be used") from None
        if wanted != key.public_key().public_bytes(*spki):
            raise CertificateError(f"{key_file}: not the key of {cert_file}")
        return CertificateSet(
            cert_pem=cert_pem,
            key_pem=key_pem,
            ca_pem=ca_pem,
            identity=_identity(certificate, cert_file),
            expires_at=certificate.not_valid_after_utc.timestamp(),
            generation=generation,
        )

    @staticmethod
    def _bytes(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise CertificateError(f"{path}: {error.strerror}") from None
        except ValueError as error:  # no name of a file
            raise CertificateError(f"{str(path)!r}: {error}") from None


def _identity(certificate: x509.Certificate, path: Path) -> Identity:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except ValueError:
        raise CertificateError(f"{path}: its extensions cannot be read") from None
    problems = []
    for uri in uris:
        try:
            return Identity.parse(uri)
        except IdentityError as error:
            problems.append(str(error))
    wanted = "wanted among its URIs: spiffe://hortator/<namespace>/<service>/<component>"
    raise CertificateError(f"{path}: {'; '.join(problems) or 'it has no URI'}; {wanted}")
