"""Names that the lab's DNS knows."""

import pytest
from dnslib import DNSRecord

from cluster.dns import Zone, answer


@pytest.fixture
def zone():
    zone = Zone()
    pods = [{"ip": "10.244.1.1", "hostname": "g-0"}]
    waiting = [{"ip": "10.244.1.2", "hostname": "g-1"}]
    for name, spec in {
        "g": {"clusterIP": "None", "publishNotReadyAddresses": True},
        "ready-only": {"clusterIP": "None"},
        "gateway": {"clusterIP": "10.96.0.9"},
    }.items():
        metadata = {"name": name, "namespace": "ns"}
        subsets = [{"addresses": pods, "notReadyAddresses": waiting}]
        zone.see("services", "ADDED", {"metadata": metadata, "spec": spec})
        zone.see("endpoints", "ADDED", {"metadata": metadata, "subsets": subsets})
    return zone


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("g.ns.svc.cluster.local.", ["10.244.1.1", "10.244.1.2"]),
        ("g.ns.svc", ["10.244.1.1", "10.244.1.2"]),
        ("G-1.g.ns.svc.cluster.local", ["10.244.1.2"]),
        ("ready-only.ns.svc.cluster.local", ["10.244.1.1"]),
        ("gateway.ns.svc.cluster.local", ["10.96.0.9"]),
        ("g-2.g.ns.svc.cluster.local", None),
        ("g.other.svc.cluster.local", None),
        ("example.com", None),
        ("svc", None),
    ],
)
def test_a_name_is_its_service_or_its_pod(zone, name, addresses):
    assert zone.lookup(name) == addresses


def test_a_deleted_service_is_unknown(zone):
    zone.see("services", "DELETED", {"metadata": {"name": "g", "namespace": "ns"}})
    assert zone.lookup("g.ns.svc") is None


def test_an_unknown_name_is_nxdomain_and_an_ipv6_address_of_a_known_one_just_none(zone):
    def ask(name, kind):
        return DNSRecord.parse(answer(zone, DNSRecord.question(name, kind).pack()))

    assert ask("example.com", "A").header.rcode == 3
    assert ask("g.ns.svc.cluster.local", "AAAA").header.rcode == 0
    assert ask("g.ns.svc.cluster.local", "AAAA").rr == []
    assert [str(rr.rdata) for rr in ask("g-0.g.ns.svc.cluster.local", "A").rr] == ["10.244.1.1"]
