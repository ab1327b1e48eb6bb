"""How a process talks to others: in the clear, or by TLS with certificates on both ends.

A component is given one `Transport` and knows no more about it: servers ask it for credentials, clients for
channels. With TLS both ends show certificates; the client asks for the component it wants by name
(`identity`), the server decides by `callers` what a caller may do. New files are used by the next handshake
of a server and by the next channel of a client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

from hortator.runtime.callers import AllowedCallers
from hortator.runtime.certificates import CertificateFiles, CertificateSet, CertificateSource, TlsSettings
from hortator.runtime.grpc_server import open_channel
from hortator.runtime.identity import Identity


class Transport(Protocol):
    """What components are given."""

    @property
    def identity(self) -> Identity | None:
        """Who we are; None in the clear, where nobody can know."""
        ...

    @property
    def generation(self) -> int:
        """Changes when channels opened before should be opened anew."""
        ...

    def open_channel(
        self, address: str, peer: str | Identity, *, options: Sequence[tuple[str, Any]] = ()
    ) -> grpc.aio.Channel:
        """A channel to a component of our own service, or to anybody else, at `host:port`. Close it."""
        ...

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """For a port that only components may call; None is plaintext."""
        ...

    def public_credentials(self) -> grpc.ServerCredentials | None:
        """For a port that anybody may call who trusts our authority; None is plaintext."""
        ...

    def interceptors(self, callers: Mapping[str, frozenset[str]]) -> Sequence[grpc.aio.ServerInterceptor]:
        """What lets only the named components call each method (see `callers`)."""
        ...


class Plaintext:
    """Everything in the clear, everybody may call: one machine, or a network that is trusted."""

    identity: Identity | None = None
    generation = 0

    def open_channel(
        self,
        address: str,
        peer: str | Identity,  # noqa: ARG002  # nobody proves to be anybody
        *,
        options: Sequence[tuple[str, Any]] = (),
    ) -> grpc.aio.Channel:
        """A channel to `host:port`."""
        return open_channel(address, options=options)

    def server_credentials(self) -> None:
        """Plaintext."""

    def public_credentials(self) -> None:
        """Plaintext."""

    def interceptors(self, callers: Mapping[str, frozenset[str]]) -> Sequence[grpc.aio.ServerInterceptor]:  # noqa: ARG002
        """None: nobody can be told from anybody."""
        return ()


class MutualTls:
    """Certificates on both ends, all signed by one authority."""

    def __init__(self, files: CertificateSource) -> None:
        self._files = files
        self._identity = files.current().identity

    @property
    def identity(self) -> Identity:
        """That of our certificate; renewing it does not change who we are."""
        return self._identity

    @property
    def generation(self) -> int:
        """Of the files."""
        return self._files.current().generation

    def open_channel(
        self, address: str, peer: str | Identity, *, options: Sequence[tuple[str, Any]] = ()
    ) -> grpc.aio.Channel:
        """A channel to `host:port` that works only if the `peer` answers there."""
        files = self._files.current()
        credentials = grpc.ssl_channel_credentials(files.ca_pem, files.key_pem, files.cert_pem)
        wanted = (self._identity.of(peer) if isinstance(peer, str) else peer).server_name
        named = (("grpc.ssl_target_name_override", wanted), ("grpc.default_authority", wanted))
        return open_channel(address, credentials=credentials, options=(*named, *options))

    def server_credentials(self) -> grpc.ServerCredentials:
        """Whoever connects must show a certificate of our authority."""
        return reloading_credentials(self._files, asks_for_certificates=True)

    def public_credentials(self) -> grpc.ServerCredentials:
        """For a port that anybody may call who trusts our authority."""
        return reloading_credentials(self._files, asks_for_certificates=False)

    def interceptors(self, callers: Mapping[str, frozenset[str]]) -> Sequence[grpc.aio.ServerInterceptor]:
        """One that reads certificates."""
        return (AllowedCallers(self._identity, callers),)


def transport_of(settings: TlsSettings) -> Plaintext | MutualTls:
    """What the settings ask for.

    Raises:
        CertificateError: a file cannot be used.
    """
    return MutualTls(CertificateFiles(settings)) if settings.is_on else Plaintext()


def reloading_credentials(files: CertificateSource, *, asks_for_certificates: bool) -> grpc.ServerCredentials:
    """Server credentials that follow the files, one look per handshake."""
    used = files.current()

    def newer() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        current = files.current()
        if current.generation == used.generation:
            return None
        used = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        newer,  # type: ignore[arg-type]  # None is "as before"; the stubs do not know
        require_client_authentication=asks_for_certificates,
    )


def _configuration(files: CertificateSet) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(files.key_pem, files.cert_pem)], files.ca_pem)
