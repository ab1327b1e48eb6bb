"""Roles as LeaderWorkerSets: what their project publishes, pods that Kubernetes takes, and that they are the operator's."""

import re

import pytest
import yaml

from doubles.kubernetes import published, schemas
from hortator.operator import names
from hortator.operator.manifests import lws
from hortator.operator.revision import hash_of, template_of

PLACE = "HORTATOR_LWS_GROUP", "HORTATOR_LWS_MEMBER", "HORTATOR_LWS_POD"
ELSEWHERE = {"HORTATOR_WORKER_LEADER_ADDRESS", "HORTATOR_WORKER_SSH_HOST", "HORTATOR_WORKER_INCARNATION"}
"""What names a pod by its own name, or a StatefulSet by its uid."""


def sets(service, wanted):
    return [
        (role, lws.leader_worker_set(service, role, template=template_of(obj), revision=hash_of(obj)))
        for role, obj in zip(service.spec.roles, wanted(service).revisions, strict=True)
    ]


def environment(template, labels, pod):
    """The variables of the engine's container in one pod, as the kubelet expands them."""
    values = {}
    (container,) = (one for one in template["spec"]["containers"] if one["name"] == "engine")
    for entry in container["env"]:
        path = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
        value = labels[label[1]] if label else pod if path == "metadata.name" else entry.get("value", path)
        values[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda found: values.get(found[1], found[0]), value)
    return values


@pytest.fixture(params=["simulated-64", "h800-32", "h800-64"])
def service(request, sample, changed):
    placement = {"topologyKey": "topology.kubernetes.io/zone"}
    return changed(sample(request.param), {"spec.placement": placement, "spec.drain": {"timeout": "90s"}})


def test_they_are_what_the_project_publishes(service, wanted):
    for _, obj in sets(service, wanted):
        assert published.problems(obj, "leaderworkersets") == []


def test_a_field_that_it_does_not_have_is_found(service, wanted):
    """The check above can fail."""
    _, obj = sets(service, wanted)[0]
    assert published.problems(obj | {"spec": obj["spec"] | {"groups": 2}}, "leaderworkersets")


def test_kubernetes_takes_the_pods(service, wanted):
    for _, obj in sets(service, wanted):
        template = obj["spec"]["leaderWorkerTemplate"]["workerTemplate"]
        head = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
        assert schemas.problems(head | {"template": template}, schemas.VERSIONS[0]) == []
        assert schemas.problems(head | {"template": template | {"x": 1}}, schemas.VERSIONS[0])


def test_every_pod_is_told_what_the_operator_tells_it(service, wanted):
    desired = wanted(service)
    for role, obj in sets(service, wanted):
        spec = obj["spec"]
        groups = [one for one in desired.groups if one.role == role.name]
        assert spec["replicas"] == len(groups)
        assert spec["leaderWorkerTemplate"]["size"] == role.nodes
        template = spec["leaderWorkerTemplate"]["workerTemplate"]
        for group in groups:
            own = group.statefulset(epoch=1, replicas=role.nodes, annotations={}, uid="")["spec"]["template"]
            for member in range(role.nodes):
                pod = f"{group.name}-{member}" if member else group.name
                told = {"group-index": str(group.index), "worker-index": str(member)}
                labels = template["metadata"]["labels"] | {lws.PREFIX + key: v for key, v in told.items()}
                theirs = environment(template, labels, pod)
                ours = environment(own, own["metadata"]["labels"], f"{group.name}-{member}")
                assert {key: v for key, v in theirs.items() if key not in ELSEWHERE | set(PLACE)} == {
                    key: v for key, v in ours.items() if key not in ELSEWHERE
                }
                leader = theirs["HORTATOR_WORKER_LEADER_ADDRESS"].partition(":")[0]
                assert leader == f"{group.name}.{group.name}.default.svc"
                if "HORTATOR_WORKER_SSH_HOST" in ours:
                    assert theirs["HORTATOR_WORKER_SSH_HOST"] == f"{pod}.{group.name}.default.svc"


def test_no_mark_and_no_group_of_ones_own_is_left(service, wanted):
    for _, obj in sets(service, wanted):
        text = yaml.safe_dump(obj)
        assert "@@" not in text
        assert names.LABEL_GROUP + ":" not in text


def test_the_rollout_is_theirs_with_our_numbers(sample, changed, wanted):
    rollout = {"maxUnavailable": 2, "maxSurge": 1, "partition": 3}
    for _, obj in sets(changed(sample("simulated-64"), {"spec.rollout": rollout}), wanted):
        assert obj["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"] == rollout
        assert obj["spec"]["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupAfterStart"
        assert obj["spec"]["networkConfig"] == {"subdomainPolicy": "UniquePerReplica"}


def test_a_leader_worker_set(sample, wanted, golden):
    (found,) = sets(sample("h800-32"), wanted)
    golden("operator/leader-worker-set.yaml", yaml.safe_dump(found[1], sort_keys=False, width=110))
