"""What other schedulers are told of groups, held against what their projects publish."""

import pytest
import yaml

from doubles.kubernetes import published, schemas
from hortator.operator import names
from hortator.operator.kinds import ours
from hortator.operator.manifests.gang import PROVIDERS
from hortator.operator.permissions import PERMISSIONS

GANGS = {
    "volcano": {"provider": "Volcano", "queue": "serving", "timeout": "30m"},
    "coscheduling": {"provider": "Coscheduling"},
    "kueue": {"provider": "Kueue", "queue": "serving"},
}


@pytest.fixture
def service(sample, changed):
    def of(gang, **more):
        priority = {"spec.roles.0.priorityClassName": "high"}
        return changed(sample("h800-32"), {"spec.placement": {"gang": gang}} | priority | more)

    return of


@pytest.mark.parametrize("name", GANGS)
def test_what_it_is_told_of_a_group(name, service, wanted, golden):
    group = wanted(service(GANGS[name])).groups[0]
    statefulset = group.statefulset(epoch=3, replicas=group.num_members, annotations={}, uid="uid-2")
    template = statefulset["spec"]["template"]
    told = {"metadata": template["metadata"], "schedulerName": template["spec"].get("schedulerName")}
    pod_group = group.pod_group(epoch=3, uid="uid-2")
    parts = [one for one in (pod_group, {"podTemplate": told}) if one is not None]
    golden(f"operator/gang-{name}.yaml", yaml.safe_dump_all(parts, sort_keys=False, width=110))


@pytest.mark.parametrize("name", ["volcano", "coscheduling"])
def test_its_objects_are_what_the_project_publishes(name, service, wanted):
    for gang in (GANGS[name], {"provider": GANGS[name]["provider"]}):
        for group in wanted(service(gang)).groups:
            obj = group.pod_group(epoch=1, uid="uid-2")
            assert published.problems(obj, f"{name}-podgroups") == []
            assert obj["spec"]["minMember"] == group.num_members


@pytest.mark.parametrize("name", ["volcano", "coscheduling"])
def test_a_field_that_it_does_not_have_is_found(name, service, wanted):
    """The check above can fail."""
    obj = wanted(service(GANGS[name])).groups[0].pod_group(epoch=1, uid="uid-2")
    assert published.problems(obj | {"spec": {"minMembers": 2}}, f"{name}-podgroups")
    assert published.problems(obj | {"spec": {"minMember": "2"}}, f"{name}-podgroups")


@pytest.mark.parametrize("name", ["volcano", "coscheduling"])
def test_the_kind_is_spelled_as_the_project_does(name):
    spec = published.crd(f"{name}-podgroups")["spec"]
    version = f"{spec['group']}/{spec['versions'][0]['name']}"
    provider = next(one for key, one in PROVIDERS.items() if key.lower() == name)
    assert provider.kind == ours(version, spec["names"]["kind"], spec["names"]["plural"])


@pytest.mark.parametrize("name", GANGS)
def test_kubernetes_takes_the_pods(name, service, wanted):
    objects = schemas.unlike(wanted(service(GANGS[name])).objects())
    own = [one for one in objects if one["kind"] != "PodGroup"]
    assert [said for one in own for said in schemas.problems(one, schemas.VERSIONS[0])] == []


@pytest.mark.parametrize("name", GANGS)
def test_pods_of_different_starts_are_never_of_one_gang(name, service, wanted):
    found = wanted(service(GANGS[name]))
    starts = [(group, uid, epoch) for group in found.groups for uid in ("a", "b") for epoch in (1, 2)]
    named = [names.pod_group_name(group.name, uid, epoch) for group, uid, epoch in starts]
    assert len(set(named)) == len(starts)
    longest = names.pod_group_name(names.group_name("s" * 40, "Decode", 1024 * 1024), "uid", 10**6)
    assert len(longest) <= 63


def test_each_provider_that_has_objects_has_its_permissions_and_no_other():
    granted = {one.provider: (one.group, one.resource) for one in PERMISSIONS if one.provider}
    with_objects = {name: one.kind for name, one in PROVIDERS.items() if one.kind is not None}
    assert granted == {name: (kind.group_version[0], kind.plural) for name, kind in with_objects.items()}


def test_a_scheduler_of_another_name_gets_the_pods(service, wanted):
    for provider, default in (("Volcano", "volcano"), ("Coscheduling", "scheduler-plugins-scheduler")):
        for name in (None, "mine"):
            gang = {"provider": provider} | ({"schedulerName": name} if name else {})
            template = wanted(service(gang)).groups[0].template
            assert template["spec"]["schedulerName"] == (name or default)
