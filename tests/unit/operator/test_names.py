"""Names of child objects: they fit, they can be read back, and no two services share one."""

import re

import pytest

from hortator.operator import names
from hortator.operator.objects import Ref, ref_of

LONGEST = "a" * 40
LAST_GROUP = 1024 * 1024 - 1
LAST_ORDINAL = 63
DNS_1035_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
ROLES = ("Prefill", "Decode", "Aggregated")


def all_names(service):
    for role in ROLES:
        yield names.group_name(service, role, LAST_GROUP)
        yield names.pod_name(service, role, LAST_GROUP, LAST_ORDINAL)
        yield f"{names.group_name(service, role, LAST_GROUP)}-{'b' * 10}"  # label controller-revision-hash
        yield names.revision_name(service, role, "b" * names.REVISION_HASH_LENGTH)
        yield names.worker_id(role, LAST_GROUP)
    for of_deployment in (names.scheduler_name, names.gateway_name):
        yield of_deployment(service)
        yield f"{of_deployment(service)}-{'b' * 10}"  # its ReplicaSet
    yield names.cache_name(service)
    for component in (names.COMPONENT_GATEWAY, names.COMPONENT_SCHEDULER, names.COMPONENT_ENGINE):
        yield names.policy_name(service, component)
    yield names.prefetch_name(service)
    yield f"{names.prefetch_name(service)}-{'b' * 5}"  # the Job's pod
    yield f"{names.pull_name(service, {})}-{'b' * 5}"  # likewise
    yield names.account_name(service)


def test_every_name_of_the_longest_service_is_a_dns_label_of_63():
    too_long = [name for name in all_names(LONGEST) if len(name) > 63 or not DNS_1035_LABEL.fullmatch(name)]
    assert too_long == []


def test_label_values_of_the_longest_service_fit_63():
    labels = names.group_labels(LONGEST, "Aggregated", LAST_GROUP)
    assert all(len(value) <= 63 for value in labels.values())
    assert all(len(key.partition("/")[2]) <= 63 for key in labels)


@pytest.mark.parametrize("service", ["svc", "a-p-0", "x-scheduler", "p-0", LONGEST])
@pytest.mark.parametrize("role", ROLES)
def test_a_pod_name_says_which_member_it_is(service, role):
    found = names.parse_pod_name(names.pod_name(service, role, 12, 3))
    assert found is not None
    assert (found.group.service, found.group.role, found.group.index, found.ordinal) == (service, role, 12, 3)


@pytest.mark.parametrize("name", ["", "svc", "svc-p", "svc-x-0", "svc-p-01", "svc-scheduler", "-p-0"])
def test_other_names_are_no_group(name):
    assert names.parse_group_name(name) is None


@pytest.mark.parametrize("name", ["", "svc", "svc-0", "svc-p-0", "svc-p-0-01", "svc-x-0-0"])
def test_other_names_are_no_member(name):
    assert names.parse_pod_name(name) is None


def test_a_pod_of_another_kind_is_no_member():
    assert names.parse_pod_name("svc-scheduler-7d9f8b6c5d-x2x4z") is None
    assert names.parse_pod_name("svc-prefetch-abcde") is None
    assert names.parse_pod_name(f"{names.pull_name('svc', {})}-24567") is None


def test_worker_ids_are_those_of_one_machine():
    assert names.worker_id("Prefill", 0) == "prefill-0"
    assert names.worker_id("Decode", 12) == "decode-12"


def test_group_selectors_tell_groups_apart():
    selectors = [
        tuple(names.group_selector(service, role, index).items())
        for service in ("a", "b")
        for role in ROLES
        for index in (0, 1)
    ]
    assert len(set(selectors)) == len(selectors)


def test_a_selector_is_part_of_the_labels():
    assert names.group_selector("a", "Decode", 1).items() <= names.group_labels("a", "Decode", 1).items()
    assert names.component_selector("a", "gateway").items() <= names.component_labels("a", "gateway").items()


def test_a_reference_reads_like_kubectl():
    obj = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "b"}}
    assert str(ref_of(obj)) == "Service b/a"
    node = Ref(api_version="v1", kind="Node", namespace="", name="h800-0")
    assert str(node) == "Node h800-0"


def test_the_identity_of_a_service_made_anew_has_another_name():
    first, second = (names.identity_name(LONGEST, "Prefill", LAST_GROUP, uid) for uid in ("u-1", "u-2"))
    assert first != second
    assert len(first) <= 253


def test_role_labels_can_be_read_back():
    assert [names.role_of_label(names.role_label(role)) for role in ROLES] == list(ROLES)
    assert names.role_of_label("leader") is None
