"""Certificates that the operator makes (spec.security.tls.issuer: Operator): which, and when each is due.

Pure: what is known of the Secrets comes in as facts without any key, times are arguments. Rules:

1. A certificate is made anew when two thirds of its life are over, when it is not of an authority that is
   trusted now, when it has other names than are wanted, or when its `ca.crt` is not what is trusted now.
2. The authority is followed by another when half of its life is over. From then on both are trusted, and the
   old one signs as long as it outlives what it signs: by the time that the new one signs, everybody has had
   it in `ca.crt` for most of a year.
3. A Secret of one of these names with another owner is left alone, and said.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hortator.api.v1alpha1 import LLMService
from hortator.operator import names
from hortator.operator.manifests.metadata import Owner
from hortator.operator.options import Options

COMPONENTS = ("gateway", "scheduler", "worker", "client")
"""Each has a Secret. The operator's own certificate is in none: it signs one for itself."""
AUTHORITY = "authority"
"""The component in the name of the Secret that no pod has."""
CERTIFICATE_DAYS = 90
AUTHORITY_DAYS = 730
RENEWED_AFTER = 2 / 3
"""Of a certificate's life."""
FOLLOWED_AFTER = 1 / 2
"""Of an authority's life."""
EXPIRING_AFTER = 5 / 6
"""Of a certificate's life: it should have been made anew long ago."""
CHECK_S = 300.0
"""Secrets are not watched: they are read again so often."""
UNSETTLED_CHECK_S = 10.0
REFUSED_RETRY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the operator makes for one LLMService."""

    owner: Owner
    prefix: str
    """Of the Secrets' names."""
    hosts: tuple[str, ...]
    """Names and addresses by which clients dial the gateways."""

    def secret(self, component: str) -> str:
        """The name of a component's Secret."""
        return names.tls_secret(self.prefix, component)

    def hosts_of(self, component: str) -> tuple[str, ...]:
        """What its certificate has beside its identity."""
        return self.hosts if component == names.COMPONENT_GATEWAY else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """From when to when a certificate is good, and whose it is."""

    name: str
    """Its subject; of authorities no two are the same."""
    begins_at: datetime
    ends_at: datetime

    def lived(self, part: float) -> datetime:
        """When this part of its life is over."""
        return self.begins_at + (self.ends_at - self.begins_at) * part


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What the certificate in a component's Secret says."""

    validity: Validity
    issuer: str
    """The name of the authority that signed it."""
    is_of_component: bool
    """It says that its holder is this component of this service."""
    hosts: frozenset[str]
    """What it has beside its identity."""
    trusted: tuple[str, ...]
    """The names in its `ca.crt`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The API server refuses to let Secrets be read or written."""

    at: datetime
    message: str
    is_forbidden: bool
    """The operator's roles do not allow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatesFacts:
    """What is known of the Secrets of one LLMService; without any key."""

    read_at: datetime
    authorities: tuple[Validity, ...] = ()
    """The oldest first; empty: there is none, or none that can be read."""
    certificates: Mapping[str, CertificateFacts] = field(default_factory=dict)
    """By component; of a Secret that is missing, or cannot be read, there is none."""
    foreign: tuple[str, ...] = ()
    """Names of Secrets that are there and are somebody else's."""
    refused: Refused | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What is to be made now."""

    authority: bool
    components: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.authority or bool(self.components)


def wanted(service: LLMService, *, owner: Owner, options: Options) -> Wanted | None:
    """What the operator makes for a service; None: others make its certificates, or it has none."""
    tls = service.spec.security.tls
    if tls is None or tls.issuer != "Operator":
        return None
    gateway = names.gateway_name(owner.name)
    near = (gateway, f"{gateway}.{owner.namespace}", f"{gateway}.{owner.namespace}.svc")
    hosts = dict.fromkeys((*near, options.host(gateway, owner.namespace), *map(_canonical, tls.hosts)))
    return Wanted(owner=owner, prefix=tls.secret_prefix or owner.name, hosts=tuple(hosts))


def _canonical(host: str) -> str:
    """An address as a certificate gives it back, so that both can be compared; a name as it is."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def living(authorities: Sequence[Validity], now: datetime) -> tuple[Validity, ...]:
    """Those that are trusted: one that has ended is left out of `ca.crt`."""
    return tuple(one for one in authorities if one.ends_at > now)


def signer(authorities: Sequence[Validity], now: datetime) -> Validity | None:
    """Which of the living signs: the oldest that outlives what it signs, else the newest."""
    alive = living(authorities, now)
    lasting = [one for one in alive if one.ends_at >= now + timedelta(days=CERTIFICATE_DAYS)]
    return next(iter(lasting), alive[-1] if alive else None)


def due(wanted: Wanted, facts: CertificatesFacts, now: datetime) -> Due:
    """What is to be made now; nothing at all where the authority is somebody else's."""
    if wanted.secret(AUTHORITY) in facts.foreign:
        return Due(authority=False, components=())
    alive = living(facts.authorities, now)
    needs_authority = not alive or alive[-1].lived(FOLLOWED_AFTER) <= now
    components = tuple(
        component
        for component in COMPONENTS
        if wanted.secret(component) not in facts.foreign
        and (needs_authority or _is_due(wanted, component, facts, alive, now))
    )
    return Due(authority=needs_authority, components=components)


def _is_due(
    wanted: Wanted, component: str, facts: CertificatesFacts, alive: Sequence[Validity], now: datetime
) -> bool:
    found = facts.certificates.get(component)
    trusted = tuple(one.name for one in alive)
    return (
        found is None
        or found.validity.lived(RENEWED_AFTER) <= now
        or found.trusted != trusted
        or found.issuer not in trusted
        or not found.is_of_component
        or found.hosts != frozenset(wanted.hosts_of(component))
    )


def next_moment(wanted: Wanted, facts: CertificatesFacts, now: datetime) -> datetime:
    """When the Secrets are to be looked at again."""
    if facts.refused is not None:
        return facts.refused.at + timedelta(seconds=REFUSED_RETRY_S)
    is_settled = not facts.foreign and not due(wanted, facts, now)
    pause_s = CHECK_S if is_settled else UNSETTLED_CHECK_S
    return min([facts.read_at + timedelta(seconds=pause_s), *_moments(facts, now)])


def _moments(facts: CertificatesFacts, now: datetime) -> Iterator[datetime]:
    """When time alone makes something due."""
    alive = living(facts.authorities, now)
    moments = [one.validity.lived(RENEWED_AFTER) for one in facts.certificates.values()]
    moments += [one.ends_at for one in alive] + [one.lived(FOLLOWED_AFTER) for one in alive[-1:]]
    yield from (moment for moment in moments if moment > now)


def missing(wanted: Wanted, facts: CertificatesFacts) -> tuple[str, ...]:
    """Names of the Secrets that pods wait for."""
    found = (component for component in COMPONENTS if component not in facts.certificates)
    return tuple(name for name in map(wanted.secret, found) if name not in facts.foreign)


def expiring(wanted: Wanted, facts: CertificatesFacts, now: datetime) -> tuple[tuple[str, datetime], ...]:
    """Secrets that should have been renewed long ago, and when each certificate ends."""
    return tuple(
        (wanted.secret(component), one.validity.ends_at)
        for component, one in facts.certificates.items()
        if one.validity.lived(EXPIRING_AFTER) <= now
    )
