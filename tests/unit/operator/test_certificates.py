"""Certificates that the operator makes: what is due when, who signs, and what is asked for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from hortator.operator.certificates import (
    AUTHORITY,
    COMPONENTS,
    CertificateFacts,
    CertificatesFacts,
    Due,
    Refused,
    Validity,
    due,
    expiring,
    living,
    missing,
    next_moment,
    signer,
    wanted,
)
from hortator.operator.manifests.metadata import Owner
from hortator.operator.options import Images, Options

START = datetime(2026, 11, 28, tzinfo=UTC)
NEVER = Due(authority=False, components=())


def day(number):
    return START + timedelta(days=number)


def validity(name, begins, days):
    return Validity(name=name, begins_at=day(begins), ends_at=day(begins + days))


@pytest.fixture
def asked(sample, changed):
    tls = {"issuer": "Operator", "hosts": ["llm.example.com"]}
    service = changed(sample("simulated-64"), {"spec.security.tls": tls, "metadata.name": "svc"})
    options = Options(images=Images.of_version("1.2.3"), cluster_domain="cluster.local")
    return wanted(service, owner=Owner.of(service, "uid-1"), options=options)


def facts(asked, *, authorities=None, begins=0, issuer="A", **changes):
    """All Secrets are there, made on one day."""
    authorities = (validity("A", 0, 730),) if authorities is None else authorities
    certificates = {
        component: CertificateFacts(
            validity=validity(component, begins, 90),
            issuer=issuer,
            is_of_component=True,
            hosts=frozenset(asked.hosts_of(component)),
            trusted=tuple(one.name for one in authorities),
        )
        for component in COMPONENTS
    }
    for component, change in changes.items():
        certificates[component] = replace(certificates[component], **change)
    return CertificatesFacts(read_at=day(0), authorities=authorities, certificates=certificates)


@pytest.mark.parametrize("tls", [None, {}, {"issuer": "Secrets"}])
def test_nothing_is_made_unless_it_is_asked_for(sample, changed, tls):
    service = changed(sample("simulated-64"), {"spec.security.tls": tls} if tls is not None else {})
    options = Options(images=Images.of_version("1.2.3"))
    assert wanted(service, owner=Owner.of(service, "uid-1"), options=options) is None


def test_secrets_have_the_names_that_pods_mount_and_the_gateway_those_that_clients_dial(asked):
    made = [asked.secret(component) for component in (*COMPONENTS, AUTHORITY)]
    assert made == [
        "svc-gateway-tls",
        "svc-scheduler-tls",
        "svc-worker-tls",
        "svc-client-tls",
        "svc-authority-tls",
    ]
    assert asked.hosts_of("gateway") == (
        "svc-gateway",
        "svc-gateway.default",
        "svc-gateway.default.svc",
        "svc-gateway.default.svc.cluster.local",
        "llm.example.com",
    )
    assert asked.hosts_of("worker") == ()


def test_at_first_everything_is_due(asked):
    nothing = CertificatesFacts(read_at=day(0))
    assert due(asked, nothing, day(0)) == Due(authority=True, components=COMPONENTS)
    assert missing(asked, nothing) == tuple(map(asked.secret, COMPONENTS))
    assert not missing(asked, facts(asked))


@pytest.mark.parametrize(("at", "is_due"), [(0, False), (59.9, False), (60, True), (200, True)])
def test_a_certificate_is_renewed_after_two_thirds_of_its_life(asked, at, is_due):
    assert due(asked, facts(asked), day(at)).components == (COMPONENTS if is_due else ())


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "another"},
        {"trusted": ("another",)},
        {"is_of_component": False},
        {"hosts": frozenset({"another.example.com"})},
    ],
)
def test_a_certificate_that_says_something_else_is_made_anew_alone(asked, change):
    assert due(asked, facts(asked, worker=change), day(1)) == Due(authority=False, components=("worker",))


@pytest.mark.parametrize(("at", "is_due"), [(364, False), (365, True), (729, True)])
def test_an_authority_is_followed_after_half_of_its_life(asked, at, is_due):
    found = facts(asked, begins=at)
    assert due(asked, found, day(at)) == (Due(authority=True, components=COMPONENTS) if is_due else NEVER)


def test_the_old_authority_signs_until_it_would_not_outlive_what_it_signs():
    both = (validity("A", 0, 730), validity("B", 365, 730))
    signs = {at: signer(both, day(at)).name for at in (365, 366, 640, 641, 729, 800)}
    assert signs == {365: "A", 366: "A", 640: "A", 641: "B", 729: "B", 800: "B"}
    assert [one.name for one in living(both, day(730))] == ["B"]


def test_every_certificate_is_trusted_from_its_beginning_to_its_end(asked):
    """Ten years, looked at every day: whoever is trusted was in every `ca.crt` long before it signs anything."""
    authorities, certificates, told = (), {}, {}
    for at in range(3650):
        now = day(at)
        what = due(
            asked, CertificatesFacts(read_at=now, authorities=authorities, certificates=certificates), now
        )
        authorities = living(authorities, now)
        if what.authority:
            authorities = (*authorities, validity(f"A{at}", at, 730))
        trusted = tuple(one.name for one in authorities)
        for name in trusted:
            told.setdefault(name, at)
        signing = signer(authorities, now)
        for component in what.components:
            assert signing.name == "A0" or told[signing.name] <= at - 200
            certificates[component] = CertificateFacts(
                validity=validity(component, at, 90),
                issuer=signing.name,
                is_of_component=True,
                hosts=frozenset(asked.hosts_of(component)),
                trusted=trusted,
            )
        for one in certificates.values():
            assert one.validity.ends_at >= now + timedelta(days=29)
            assert one.issuer in trusted
            (authority,) = (found for found in authorities if found.name == one.issuer)
            assert authority.ends_at >= one.validity.ends_at
    assert 9 <= len(told) <= 10


def test_what_is_somebody_elses_is_never_due(asked):
    nothing = CertificatesFacts(read_at=day(0), foreign=("svc-worker-tls",))
    assert due(asked, nothing, day(0)).components == ("gateway", "scheduler", "client")
    assert missing(asked, nothing) == ("svc-gateway-tls", "svc-scheduler-tls", "svc-client-tls")
    assert due(asked, replace(nothing, foreign=("svc-authority-tls",)), day(0)) == NEVER


def test_the_next_look_is_soon_while_something_is_amiss_and_never_after_something_is_due(asked):
    settled = facts(asked)
    assert next_moment(asked, settled, day(0)) == day(0) + timedelta(minutes=5)
    late = replace(settled, read_at=day(60) - timedelta(minutes=1))
    assert next_moment(asked, late, late.read_at) == day(60)
    foreign = replace(settled, foreign=("svc-worker-tls",))
    assert next_moment(asked, foreign, day(0)) == day(0) + timedelta(seconds=10)
    refused = Refused(at=day(0), message="no", is_forbidden=True)
    assert next_moment(asked, replace(settled, refused=refused), day(0)) == day(0) + timedelta(minutes=1)


@pytest.mark.parametrize(("at", "names"), [(74, []), (75, ["svc-worker-tls"])])
def test_a_certificate_that_was_not_renewed_is_told_of_long_before_its_end(asked, at, names):
    found = facts(asked, begins=50, worker={"validity": validity("worker", 0, 90)})
    assert [name for name, _ in expiring(asked, found, day(at))] == names
