"""Who a process is: a component of a service in a namespace, as its certificate says it.

    URI of a certificate   spiffe://hortator/<namespace>/<service>/<component>
    name of its server     <component>.<service>.<namespace>.hortator

Peers are dialled by address, which no certificate can know; so a client asks for the server name of the
component that it wants, and a server reads the URI of whoever calls.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

SCHEME = "spiffe://hortator/"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class IdentityError(ValueError):
    """A URI or a name is not that of a component."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One component of one service; all replicas of it are the same."""

    namespace: str
    service: str
    component: str

    def __post_init__(self) -> None:
        """Refuse what would not fit into a name."""
        for what in ("namespace", "service", "component"):
            value = getattr(self, what)
            if not _LABEL.fullmatch(value):
                raise IdentityError(
                    f"{what}: {value!r} is no name (allowed: up to 63 of a-z, 0-9 and '-', none at the ends)"
                )

    def __str__(self) -> str:
        return f"{self.component} of {self.namespace}/{self.service}"

    @property
    def uri(self) -> str:
        """What its certificate carries as a URI."""
        return f"{SCHEME}{self.namespace}/{self.service}/{self.component}"

    @property
    def server_name(self) -> str:
        """What its certificate carries as a DNS name."""
        return f"{self.component}.{self.service}.{self.namespace}.hortator"

    def of(self, component: str) -> Identity:
        """Another component of the same service."""
        return Identity(namespace=self.namespace, service=self.service, component=component)

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read a URI.

        Raises:
            IdentityError: it is not one of ours.
        """
        parts = uri.removeprefix(SCHEME).split("/")
        if not uri.startswith(SCHEME) or len(parts) != len(("namespace", "service", "component")):
            raise IdentityError(f"{uri!r} is not {SCHEME}<namespace>/<service>/<component>")
        namespace, service, component = parts
        return cls(namespace=namespace, service=service, component=component)
