"""When pods are replaced, and when not."""

import json

import pytest

from hortator.operator import names
from hortator.operator.manifests import engine
from hortator.operator.observed.reading import is_owned_by
from hortator.operator.options import Images, Options
from hortator.operator.revision import has_shape, hash_of, pod_fields, revision_hash, role_of

UPGRADED = Options(images=Images.of_version("9.9.9"), log_level="DEBUG", cluster_domain="example")

STAYS = [
    {"spec.replicas": 7},
    {"spec.roles.0.replicas": 5},
    {"spec.scheduler.policy": "immediate-round-robin"},
    {"spec.scheduler.maxHold": "1s"},
    {"spec.scheduler.replicas": 3},
    {"spec.scheduler.image": "mine"},
    {"spec.gateway.replicas": 9},
    {"spec.drain.timeout": "10m"},
    {"spec.restart.maxRestarts": 1},
    {"spec.restart.requestedAt": "2026-11-26T10:00:00Z"},
    {"spec.disruption.maxUnavailableGroups": 2},
    {"spec.placement.gang.timeout": "1m"},
    {"spec.placement.gang.provider": "Builtin"},
    {"spec.placement.gang.provider": "None"},
    {"spec.suspend": True},
    {"metadata.labels.team": "a"},
    {"metadata.annotations.note": "a"},
    {"spec.engine.imagePullPolicy": "IfNotPresent"},  # the default, written out
    {"spec.engine.env": []},
    {"spec.roles.0.startupTimeout": "45m"},
    {"spec.roles.0.resources": {}},
    {"spec.model.name": "deepseek-v3"},
]
CHANGES = [
    {"spec.engine.image": "mine:2"},
    {"spec.engine.env": [{"name": "NCCL_DEBUG", "value": "INFO"}]},
    {"spec.engine.imagePullPolicy": "Always"},
    {"spec.engine.imagePullSecrets": [{"name": "regcred"}]},
    {"spec.engine.simulated.timeScale": 0.5},
    {"spec.roles.0.nodes": 4, "spec.roles.0.gpusPerNode": 4},
    {"spec.roles.0.chunkBudgetTokens": 4096},
    {"spec.roles.0.chunkedPrefill": False},
    {"spec.roles.0.resources.cpu": "2"},
    {"spec.roles.0.nodeSelector": {"pool": "a"}},
    {"spec.roles.0.tolerations": [{"key": "gpu", "operator": "Exists"}]},
    {"spec.roles.0.startupTimeout": "10m"},
    {"spec.model.name": "other"},
    {"spec.model.authSecretRef": {"name": "hf"}},
    {"spec.model.cache": {"claimName": "weights"}},
    {"spec.placement.topologyKey": "topology.kubernetes.io/zone"},
    {"spec.placement.gang": {"provider": "Volcano"}},
    {"spec.placement.gang": {"provider": "Kueue", "queue": "serving"}},
    {"spec.roles.1.maxSequenceTokens": 4096},  # an engine is told the least of all roles
]
CHANGES_ON_GPUS = [  # the modelled engine does not look at these
    {"spec.roles.0.parallelism.expert": 8, "spec.roles.0.parallelism.expertTensor": 2},
    {"spec.model.revision": "abc"},
    {"spec.model.uri": "hf://other/model"},
    {"spec.roles.0.gpuResourceName": "example.com/gpu"},
]
CASES = [
    pytest.param(name, values, id=next(iter(values)))
    for name, changes in (("simulated-64", CHANGES), ("h800-16", CHANGES_ON_GPUS))
    for values in changes
]


@pytest.mark.parametrize("values", STAYS, ids=lambda values: next(iter(values)))
def test_what_no_pod_sees_replaces_no_pod(sample, changed, values):
    before = sample("simulated-64")
    after = changed(before, values)
    assert [revision_hash(after, role) for role in after.spec.roles] == [
        revision_hash(before, role) for role in before.spec.roles
    ]


@pytest.mark.parametrize(("name", "values"), CASES)
def test_what_a_pod_sees_makes_a_new_revision(sample, changed, name, values):
    before = sample(name)
    after = changed(before, values)
    assert revision_hash(after, after.spec.roles[0]) != revision_hash(before, before.spec.roles[0])


@pytest.mark.parametrize(("name", "values"), CASES)
def test_a_new_revision_has_another_template(sample, changed, wanted, name, values):
    """No field counts that does not reach the pods."""
    before = sample(name)
    templates = [wanted(service).groups[0].template for service in (before, changed(before, values))]
    assert templates[0] != templates[1]


@pytest.mark.parametrize("values", STAYS, ids=lambda values: next(iter(values)))
def test_the_same_revision_has_the_same_template(sample, changed, wanted, values):
    """Nothing reaches the pods that does not count."""
    before = sample("simulated-64")
    templates = [wanted(service).groups[0].template for service in (before, changed(before, values))]
    assert templates[0] == templates[1]


def test_a_change_of_one_role_leaves_the_other_alone(sample, changed, wanted):
    before = sample("simulated-64")
    after = changed(before, {"spec.roles.1.chunkBudgetTokens": 1})
    assert wanted(after).group("Prefill", 0).revision == wanted(before).group("Prefill", 0).revision
    assert wanted(after).group("Decode", 0).revision != wanted(before).group("Decode", 0).revision


def test_the_hashes_of_a_sample_are_those_of_earlier_versions(sample):
    """These texts may change only in a release whose notes say that every engine is replaced."""
    service = sample("simulated-64")
    assert [revision_hash(service, role) for role in service.spec.roles] == ["bp8qqwtfrm", "xvb8x792lf"]


def test_an_upgraded_operator_uses_the_frozen_template(sample, wanted):
    service = sample("simulated-64")
    before = wanted(service)
    assert wanted(service, options=UPGRADED).groups[0].template != before.groups[0].template
    after = wanted(service, options=UPGRADED, revisions=before.revisions)
    assert after.revisions == before.revisions
    assert [group.template for group in after.groups] == [group.template for group in before.groups]
    arguments = {"epoch": 4, "replicas": 2, "annotations": {}}
    assert after.groups[0].statefulset(**arguments) == before.groups[0].statefulset(**arguments)


def test_the_frozen_template_of_another_service_of_the_same_name_does_not_count(sample, wanted):
    service = sample("simulated-64")
    old = wanted(service, uid="uid-0").revisions
    assert wanted(service, options=UPGRADED, revisions=old).revisions[0]["data"] != old[0]["data"]


def test_the_history_of_a_statefulset_is_not_ours(sample, wanted):
    """Its controller makes ControllerRevisions of its own, with all labels of the pod template."""
    service = sample("simulated-64")
    before = wanted(service)
    statefulset = before.groups[0].statefulset(epoch=1, replicas=2, annotations={})
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{before.groups[0].name}-6c8d5f7b9",
            "namespace": "default",
            "labels": statefulset["spec"]["template"]["metadata"]["labels"],
            "ownerReferences": [{"kind": "StatefulSet", "name": before.groups[0].name, "uid": "uid-2"}],
        },
        "revision": 7,
        "data": {"spec": {"template": {"$patch": "replace"}}},
    }
    assert not is_owned_by(theirs, "uid-1")
    assert wanted(service, revisions=[theirs]).revisions == before.revisions


def test_revisions_are_numbered_in_the_order_they_come(sample, changed, wanted):
    first = sample("simulated-64")
    second = changed(first, {"spec.engine.image": "mine:2"})
    known = wanted(first).revisions
    later = wanted(second, revisions=known).revisions
    assert [obj["revision"] for obj in (*known, *later)] == [1, 1, 2, 2]
    back = wanted(first, revisions=[*known, *later]).revisions
    assert back == known


def test_a_group_can_start_anew_with_the_revision_it_ran(sample, changed, wanted):
    first = sample("simulated-64")
    known = wanted(first).revisions
    now = wanted(changed(first, {"spec.engine.image": "mine:2"}), revisions=known)
    again = now.groups[0].at(known[0]).statefulset(epoch=2, replicas=2, annotations={})
    template = again["spec"]["template"]
    assert template["spec"]["containers"][0]["image"] == "hortator-worker:1.2.3"
    assert template["metadata"]["labels"][names.LABEL_REVISION] == wanted(first).groups[0].revision


def test_a_frozen_template_is_json_and_has_no_value_of_a_single_group(sample, wanted):
    data = wanted(sample("simulated-64")).revisions[0]["data"]
    assert json.loads(json.dumps(data)) == data
    text = json.dumps(data)
    assert "simulated-p-0" not in text
    for mark in (engine.GROUP_NAME, engine.GROUP_INDEX, engine.WORKER_ID, engine.IDENTITY):
        assert mark in text


def test_a_revision_says_which_fields_it_came_from(sample, wanted):
    service = sample("simulated-64")
    fields = wanted(service).revisions[1]["data"]["fields"]
    assert fields == pod_fields(service, service.spec.roles[1])
    assert fields["role"]["parallelism"] == {"attentionDP": 32, "expert": 32}
    assert "replicas" not in fields["role"]


@pytest.mark.parametrize("damage", [None, {}, [], "x", {"spec": {}}, {"metadata": {"labels": {"a": "b"}}}])
def test_a_damaged_revision_has_no_shape_and_is_made_nothing_from(sample, wanted, damage):
    service = sample("simulated-64")
    role, obj = service.spec.roles[0], wanted(service).revisions[0]
    assert has_shape(obj, role)
    assert not has_shape(obj | {"data": obj["data"] | {"template": damage}}, role)
    assert not has_shape(obj | {"data": damage}, role)


def test_the_shape_is_that_of_the_pods_alone(sample, changed, wanted):
    service = sample("simulated-64")
    obj = wanted(service).revisions[0]
    same = changed(service, {"spec.roles.0.chunkBudgetTokens": 1, "spec.roles.0.replicas": 9})
    other = changed(service, {"spec.roles.0.nodes": 4, "spec.roles.0.gpusPerNode": 4})
    assert has_shape(obj, same.spec.roles[0])
    assert not has_shape(obj, other.spec.roles[0])


def test_a_label_that_is_no_text_reads_as_if_it_were_absent():
    """No API server takes one; what a damaged object says must not make a plan raise."""
    obj = {"metadata": {"labels": {names.LABEL_REVISION: [], names.LABEL_ROLE: {}}}}
    assert (hash_of(obj), role_of(obj)) == ("", None)
    assert (hash_of({"metadata": {"labels": None}}), role_of({})) == ("", None)
