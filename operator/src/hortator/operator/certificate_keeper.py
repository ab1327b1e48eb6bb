"""Makes and renews Secrets with certificates for services that ask for it; the rules are in `certificates`.

    <prefix>-authority-tls      ca.crt: who is trusted, the oldest first; ca.key: their keys. No pod has it
    <prefix>-<component>-tls    tls.crt, tls.key, ca.crt, as pods mount them

The authority is written before anything that it signs, and each Secret by itself: stopped between any two
writes, the next look goes on from what is there. A Secret is created, or replaced in exactly the state that
was read and found to be ours; of two operators one wins, and the other reads again. Keys are in these Secrets
and, of the operator's own certificate, in memory; never in what is planned, logged or told.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from hortator.operator import certificates, names
from hortator.operator.certificates import (
    AUTHORITY,
    AUTHORITY_DAYS,
    CERTIFICATE_DAYS,
    COMPONENTS,
    CertificateFacts,
    CertificatesFacts,
    Refused,
    Validity,
    Wanted,
)
from hortator.operator.cluster import AlreadyExistsError, Cluster, ForbiddenError, InvalidError
from hortator.operator.manifests.metadata import child
from hortator.operator.objects import Obj, Ref
from hortator.operator.observed.reading import is_owned_by, texts
from hortator.operator.work_queue import Key
from hortator.runtime.certificate_authority import CertificateAuthority
from hortator.runtime.certificate_facts import Said, read_certificates
from hortator.runtime.certificates import CertificateError, CertificateSet
from hortator.runtime.identity import Identity
from hortator.runtime.transport import MutualTls

OWN_DAYS = 7
"""The operator's own certificate is in no file and no Secret: it can be short."""
_RENEWED_AFTER = 1 / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """The Secrets of a service at one moment."""

    facts: CertificatesFacts
    secrets: Mapping[str, Obj] = field(default_factory=dict, repr=False)
    """Ours, by component."""
    authorities: tuple[CertificateAuthority, ...] = ()


class CertificateKeeper:
    """The certificates of all services that the operator makes them for."""

    def __init__(self, cluster: Cluster, *, now: Callable[[], datetime]) -> None:
        """`cluster` is the guarded one: it refuses writes of a process that does not lead."""
        self._cluster = cluster
        self._now = now
        self._facts: dict[Key, tuple[Wanted, CertificatesFacts]] = {}
        self._own: dict[Key, _OwnCertificate] = {}
        self._log = structlog.get_logger("hortator.operator.certificates")

    def forget(self, key: Key) -> None:
        """The service is gone, or others make its certificates."""
        self._facts.pop(key, None)
        self._own.pop(key, None)

    async def facts(self, key: Key, wanted: Wanted | None) -> CertificatesFacts | None:
        """What is known of a service's Secrets, read again when it is time; None where none are wanted.

        Raises ClusterError, but a refusal is one of the facts.
        """
        if wanted is None:
            self.forget(key)
            return None
        before, now = self._facts.get(key), self._now()
        if before is not None and before[0] == wanted:
            if certificates.next_moment(wanted, before[1], now) > now:
                return before[1]
        else:
            before = None
        try:
            read = await self._read(wanted)
        except (ForbiddenError, InvalidError) as error:
            facts = CertificatesFacts(read_at=now, refused=self._refused(error))
        else:
            facts = read.facts
            if before is not None and certificates.due(wanted, facts, now):
                facts = replace(facts, refused=before[1].refused)  # told until it works again
            self._hold(key, wanted, read.authorities)
        self._facts[key] = (wanted, facts)
        return facts

    async def make(self, key: Key, wanted: Wanted) -> None:
        """Make what is due now, by what is there now. Raises ClusterError, but a refusal is remembered."""
        self._facts.pop(key, None)
        facts = CertificatesFacts(read_at=self._now())
        try:
            read = await self._read(wanted)
            facts = read.facts
            await self._make(wanted, read)
        except AlreadyExistsError:
            pass  # somebody was faster: the next look reads it
        except (ForbiddenError, InvalidError) as error:
            self._facts[key] = (wanted, replace(facts, refused=self._refused(error)))

    def transport(self, scheduler: Identity) -> MutualTls | None:
        """How the operator talks to a scheduler whose certificate it has made; None: it has made none."""
        own = self._own.get((scheduler.namespace, scheduler.service))
        return own.transport if own is not None else None

    # --- inside ---------------------------------------------------------------------------------------

    async def _make(self, wanted: Wanted, read: _Read) -> None:
        now = self._now()
        due = certificates.due(wanted, read.facts, now)
        alive = {one.name for one in certificates.living(read.facts.authorities, now)}
        authorities = [one for one in read.authorities if _validity(one).name in alive]
        if due.authority:
            name = f"hortator {wanted.owner.name}"
            authorities.append(CertificateAuthority.create(name, now=now, days=AUTHORITY_DAYS))
            keys = b"".join(one.issued.key_pem for one in authorities)
            files = {"ca.crt": _bundle(authorities), "ca.key": keys}
            await self._write(wanted, AUTHORITY, read.secrets.get(AUTHORITY), files)
        signing = _signer(authorities, now)
        for component in due.components:
            issued = signing.issue(
                _identity(wanted, component),
                now=now,
                days=CERTIFICATE_DAYS,
                hosts=wanted.hosts_of(component),
            )
            files = issued.files(_bundle(authorities))
            await self._write(wanted, component, read.secrets.get(component), files)

    async def _write(
        self, wanted: Wanted, component: str, live: Obj | None, files: Mapping[str, bytes]
    ) -> None:
        data = {name: base64.b64encode(content).decode() for name, content in files.items()}
        name = wanted.secret(component)
        if live is not None:
            await self._cluster.replace(live | {"data": data})
        else:
            labels = names.component_labels(wanted.owner.name, component)
            obj = child("v1", "Secret", name, owner=wanted.owner, labels=labels)
            kind = "Opaque" if component == AUTHORITY else "kubernetes.io/tls"
            await self._cluster.create(obj | {"type": kind, "data": data})
        until = min(one.ends_at for one in read_certificates(files.get("tls.crt", files["ca.crt"])))
        self._log.info("certificate made", secret=name, until=until.isoformat())

    async def _read(self, wanted: Wanted) -> _Read:
        found: dict[str, Obj] = {}
        foreign: list[str] = []
        for component in (AUTHORITY, *COMPONENTS):
            namespace, name = wanted.owner.namespace, wanted.secret(component)
            obj = await self._cluster.get(
                Ref(api_version="v1", kind="Secret", namespace=namespace, name=name)
            )
            if obj is None:
                continue
            if is_owned_by(obj, wanted.owner.uid):
                found[component] = obj
            else:
                foreign.append(name)
        authorities = self._authorities(wanted, found[AUTHORITY]) if AUTHORITY in found else ()
        read = {
            name: self._certificate(wanted, name, obj) for name, obj in found.items() if name != AUTHORITY
        }
        facts = CertificatesFacts(
            read_at=self._now(),
            authorities=tuple(map(_validity, authorities)),
            certificates={name: one for name, one in read.items() if one is not None},
            foreign=tuple(foreign),
        )
        return _Read(facts=facts, secrets=found, authorities=authorities)

    def _authorities(self, wanted: Wanted, secret: Obj) -> tuple[CertificateAuthority, ...]:
        try:
            return CertificateAuthority.load_all(_file(secret, "ca.crt"), _file(secret, "ca.key"))
        except CertificateError as error:
            self._log.warning("cannot be used", secret=wanted.secret(AUTHORITY), error=str(error))
            return ()

    def _certificate(self, wanted: Wanted, component: str, secret: Obj) -> CertificateFacts | None:
        try:
            said = read_certificates(_file(secret, "tls.crt"))[0]
            trusted = read_certificates(_file(secret, "ca.crt"))
        except CertificateError as error:
            self._log.warning("cannot be used", secret=wanted.secret(component), error=str(error))
            return None
        identity = _identity(wanted, component)
        return CertificateFacts(
            validity=_validity_of(said),
            issuer=said.issuer,
            is_of_component=identity.uri in said.uris and identity.server_name in said.hosts,
            hosts=said.hosts - {identity.server_name},
            trusted=tuple(one.subject for one in trusted),
        )

    def _hold(self, key: Key, wanted: Wanted, authorities: Sequence[CertificateAuthority]) -> None:
        """Keep the operator's own certificate for this service fresh."""
        now = self._now()
        alive = [one for one in authorities if _validity(one).ends_at > now]
        if not alive:
            return
        own, bundle = self._own.get(key), _bundle(alive)
        if own is not None and own.is_good(bundle, now):
            return
        identity = _identity(wanted, names.COMPONENT_OPERATOR)
        issued = _signer(alive, now).issue(identity, now=now, days=OWN_DAYS)
        (said,) = read_certificates(issued.cert_pem)
        fresh = CertificateSet(
            cert_pem=issued.cert_pem,
            key_pem=issued.key_pem,
            ca_pem=bundle,
            identity=identity,
            expires_at=said.ends_at.timestamp(),
            generation=1 if own is None else own.current().generation + 1,
        )
        if own is None:
            self._own[key] = _OwnCertificate(fresh, _validity_of(said))
        else:
            own.renew(fresh, _validity_of(said))

    def _refused(self, error: ForbiddenError | InvalidError) -> Refused:
        self._log.warning("the API server refuses certificates", error=str(error))
        return Refused(at=self._now(), message=str(error), is_forbidden=isinstance(error, ForbiddenError))


class _OwnCertificate:
    """The operator's certificate for one service, in memory."""

    def __init__(self, current: CertificateSet, validity: Validity) -> None:
        self._current = current
        self._validity = validity
        self.transport = MutualTls(self)

    def current(self) -> CertificateSet:
        """The newest."""
        return self._current

    def is_good(self, bundle: bytes, now: datetime) -> bool:
        """Whether it goes with the authorities of now, and not near its end."""
        return self._current.ca_pem == bundle and self._validity.lived(_RENEWED_AFTER) > now

    def renew(self, current: CertificateSet, validity: Validity) -> None:
        """Another one of the same identity."""
        self._current, self._validity = current, validity


def _signer(authorities: Sequence[CertificateAuthority], now: datetime) -> CertificateAuthority:
    by_name = {_validity(one).name: one for one in authorities}
    chosen = certificates.signer(tuple(map(_validity, authorities)), now)
    return by_name[chosen.name] if chosen is not None else authorities[-1]


def _identity(wanted: Wanted, component: str) -> Identity:
    return Identity(namespace=wanted.owner.namespace, service=wanted.owner.name, component=component)


def _bundle(authorities: Sequence[CertificateAuthority]) -> bytes:
    return b"".join(one.issued.cert_pem for one in authorities)


def _validity(authority: CertificateAuthority) -> Validity:
    (said,) = read_certificates(authority.issued.cert_pem)
    return _validity_of(said)


def _validity_of(said: Said) -> Validity:
    return Validity(name=said.subject, begins_at=said.begins_at, ends_at=said.ends_at)


def _file(secret: Obj, name: str) -> bytes:
    try:
        return base64.b64decode(texts(secret, "data").get(name, ""), validate=True)
    except (binascii.Error, ValueError):
        raise CertificateError(f"{name}: not in base64") from None
