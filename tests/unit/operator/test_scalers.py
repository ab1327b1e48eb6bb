"""LLMServiceScalers: which of them says how many groups a role has, and what stays as it was."""

import pytest

from hortator.api.parse import parse
from hortator.operator.desired import carried_out
from hortator.operator.observed.scalers import scalers_of
from hortator.operator.options import Images, Options
from hortator.operator.revision import revision_hash
from hortator.operator.scalers import role_scalers, scaled

AT = "2026-11-26T10:00:0{}Z"


def a_scaler(name, role="Decode", *, at=0, service="demo", **spec):
    return {
        "apiVersion": "serving.hortator.dev/v1alpha1",
        "kind": "LLMServiceScaler",
        "metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": AT.format(at)},
        "spec": {"serviceName": service, "role": role, **spec},
    }


def read(*objects):
    return scalers_of(objects, namespace="default", service="demo")


@pytest.fixture
def service(sample):
    """Two prefill groups and one decode group."""
    return sample("simulated-64")


def said(service, *objects):
    return [
        (one.facts.name, str(one.reason), one.num_groups) for one in role_scalers(read(*objects), service)
    ]


def numbers(service, *objects):
    return {role.name: role.replicas for role in scaled(service, read(*objects)).spec.roles}


def test_a_role_has_as_many_groups_as_its_scaler_says(service):
    assert numbers(service) == {"Prefill": 2, "Decode": 1}
    assert numbers(service, a_scaler("d", replicas=3)) == {"Prefill": 2, "Decode": 3}
    assert numbers(service, a_scaler("d", replicas=0)) == {"Prefill": 2, "Decode": 0}
    assert numbers(service, a_scaler("d")) == {"Prefill": 2, "Decode": 1}
    both = a_scaler("d", replicas=3), a_scaler("p", "Prefill", replicas=1)
    assert numbers(service, *both) == {"Prefill": 1, "Decode": 3}


def test_nothing_that_reaches_a_pod_changes(service):
    other = scaled(service, read(a_scaler("d", replicas=3)))
    for role, now in zip(service.spec.roles, other.spec.roles, strict=True):
        assert revision_hash(other, now) == revision_hash(service, role)


def test_the_oldest_one_wins_whatever_their_order(service):
    older, younger = a_scaler("z", replicas=3, at=1), a_scaler("a", replicas=5, at=2)
    for objects in ((older, younger), (younger, older)):
        assert said(service, *objects) == [("z", "RoleScaled", 3), ("a", "Conflict", 0)]
        assert numbers(service, *objects)["Decode"] == 3
    same = a_scaler("z", replicas=3), a_scaler("a", replicas=5)
    assert said(service, *same) == [("a", "RoleScaled", 5), ("z", "Conflict", 0)]


def test_one_that_is_on_its_way_out_or_somebody_elses_says_nothing(service):
    going = a_scaler("d", replicas=3)
    going["metadata"]["deletionTimestamp"] = AT.format(5)
    elsewhere = a_scaler("d", replicas=3)
    elsewhere["metadata"]["namespace"] = "other"
    assert read(going, a_scaler("o", service="other", replicas=3), elsewhere) == ()


def test_a_role_has_at_most_so_many_groups_over_all_sets(service, changed):
    many = changed(service, {"spec.replicas": 4})
    (one,) = role_scalers(read(a_scaler("d", replicas=300)), many)
    assert one.num_groups == 256
    assert (
        one.message == "role Decode has 256 groups per role set, and not 300: a role has at most 1024 in all"
    )


@pytest.mark.parametrize(
    "beyond", [{"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}, {"ofANewerVersion": 1}]
)
def test_one_that_breaks_a_rule_keeps_its_number_and_says_so(service, beyond):
    """An operator that is older than its CRD must not take groups away."""
    obj = a_scaler("d", replicas=3, **beyond)
    assert numbers(service, obj)["Decode"] == 3
    ((_, reason, _),) = said(service, obj)
    assert reason == "InvalidSpec"


@pytest.mark.parametrize(
    "spec", [{"replicas": "3"}, {"replicas": -1}, {"replicas": 9999}, {"role": "Draft"}, {"role": None}]
)
def test_one_that_cannot_be_read_owns_no_role(service, spec):
    unread = a_scaler("a") | {"spec": {"serviceName": "demo", "role": "Decode"} | spec}
    assert numbers(service, unread, a_scaler("d", at=1, replicas=2))["Decode"] == 2
    (first, second) = role_scalers(read(unread, a_scaler("d", at=1, replicas=2)), service)
    assert (first.reason, first.scaler, second.role) == ("InvalidSpec", None, "Decode")


def test_the_record_of_the_accepted_spec_keeps_what_the_role_says(service):
    """It is what the role goes back to, also when an operator starts beside an invalid spec."""
    spec = service.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    obj = {
        "apiVersion": "serving.hortator.dev/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": "demo", "namespace": "default", "uid": "u", "generation": 1},
        "spec": spec,
    }
    options = Options(images=Images.of_version("1.2.3"))
    scaler = a_scaler("d", replicas=3)
    _, wanted = carried_out(obj, parse(obj), options=options, children=[scaler])
    _, plain = carried_out(obj, parse(obj), options=options, children=[])
    assert len(wanted.groups) == len(plain.groups) + 2
    assert wanted.record == plain.record
    assert wanted.shared == plain.shared
    assert wanted.revisions == plain.revisions
